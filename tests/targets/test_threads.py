"""Several threads to a call: the same bits as on one, whatever their number; started, shared, left and ended safely."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from pocketpipe.delivery.loader import load_library
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import UserError
from pocketpipe.targets import sharing
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.lowering import kernel as floats
from pocketpipe.targets.lowering.integers import kernel as integers
from targets import digits
from targets.graphs import Graph, examples, metadata

SHAPE = (3, 9, 7)
emulated = pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="needs QEMU")
compiler = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


@cache
def odd() -> bytes:
    """Odd sizes, rows that are fewer than threads, groups, a depthwise layer, several vectors through one matrix."""
    graph = Graph(SHAPE)
    first = graph.op("Relu", graph.conv("input", 3, 13))
    second = graph.op("Relu", graph.op("Add", graph.conv(first, 13, 13, group=13), first))
    third = graph.op("Relu", graph.conv(second, 13, 65, strides=[2, 2]))
    fourth = graph.conv(third, 65, 65, 1, group=5)
    rows = graph.op("Reshape", fourth, graph.integers(1, 65, 20))
    mixed = graph.op("MatMul", rows, graph.weight(20, 75))
    pooled = graph.op("ReduceMean", mixed, graph.integers(2), keepdims=0)
    return graph.finish(graph.linear(pooled, 65, 10))


Compiled = Callable[..., Path]


def compiled(folder: Path, threads: int, target: str, *, quantized: bool) -> Path:
    onnx = digits.quantized_file() if quantized else odd()
    described = digits.metadata(target) if quantized else metadata(SHAPE, target)
    TARGETS.resolve(target).compile(onnx, described.model_copy(update={"threads": threads}), folder)
    return folder


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiled]:
    """Delivery folders by number of threads, each made once, in which everything is shared, however small."""

    @cache
    def make(threads: int, target: str = "x86_64", *, quantized: bool = False) -> Path:
        return compiled(tmp_path_factory.mktemp("delivery") / "out", threads, target, quantized=quantized)

    with pytest.MonkeyPatch.context() as patch:
        for module in (floats, integers):
            patch.setattr(module, "SMALLEST_SHARED", 1)
        yield make


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_bits_of_floats_are_those_of_one_thread(threads: int, delivered: Compiled) -> None:
    alone, shared = (load_library(delivered(n)) for n in (1, threads))
    inputs = examples(SHAPE, count=40)
    assert np.array_equal(shared(inputs), alone(inputs))
    assert np.array_equal(shared(inputs), alone(inputs))


@pytest.mark.parametrize("threads", [2, 7])
def test_integers_are_the_references(threads: int, delivered: Compiled) -> None:
    stored = digits.data()[1].inputs[:100]
    library = load_library(delivered(threads, quantized=True))
    assert np.array_equal(library(stored), digits.right(stored))


@emulated
@pytest.mark.slow  # the first time, ziglang builds a C library for ARM
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "integers"])
def test_arm_gives_the_same_bits(quantized: bool, delivered: Compiled) -> None:
    target = TARGETS.resolve("aarch64")
    inputs = digits.data()[1].inputs[:6] if quantized else examples(SHAPE, count=6)
    one, three = (target.run(delivered(n, "aarch64", quantized=quantized), inputs) for n in (1, 3))
    assert np.array_equal(one, three)


def test_callers_at_once_and_libraries_beside_each_other(delivered: Compiled) -> None:
    libraries = [load_library(delivered(n)) for n in (1, 2, 3)]
    inputs = examples(SHAPE, count=30)
    right = libraries[0](inputs)
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(5):
            if not np.array_equal(libraries[1 + number % 2](inputs), right):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


COUNTING = """
import ctypes, json, os, sys, time
library, inputs, outputs = ctypes.CDLL(sys.argv[1]), (ctypes.c_float * 10000)(), (ctypes.c_float * 100)()
count = lambda: len(os.listdir("/proc/self/task"))
counts = [count()]
for again in range(3):
    library.pocketpipe_run(inputs, outputs)
    counts.append(count())
    assert library.pocketpipe_close() == 0
    deadline = time.monotonic() + 5  # a thread that was joined is listed until the kernel has let go of it
    while count() > 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    counts.append(count())
assert library.pocketpipe_close() == 0
print(json.dumps(counts))
"""


def threads_while_calling(library: Path) -> list[int]:
    """Of a process of its own: at first; then, three times, after a call and after closing."""
    command = [sys.executable, "-c", COUNTING, str(library)]
    counts: list[int] = json.loads(subprocess.run(command, capture_output=True, timeout=60, check=True).stdout)
    return counts


def test_threads_come_with_the_first_call_and_end_when_closed(delivered: Compiled) -> None:
    assert threads_while_calling(delivered(3) / "model.so") == [1, 3, 1, 3, 1, 3, 1]


PROGRAM = """
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "pocketpipe_model.h"

static float input[POCKETPIPE_INPUT_COUNT], first[POCKETPIPE_OUTPUT_COUNT], again[POCKETPIPE_OUTPUT_COUNT];

static int differs(void) {
    pocketpipe_run(input, again);
    return memcmp(first, again, sizeof first) != 0;
}

int main(int argc, char **argv) {
    (void)argv;
    for (int i = 0; i < POCKETPIPE_INPUT_COUNT; i++) input[i] = (float)(i % 11) - 5;
    if (argc > 1) { /* no thread may be created */
        struct rlimit none = {1, 1};
        setrlimit(RLIMIT_NPROC, &none);
        if (setuid(65534) != 0) return 9;
    }
    pocketpipe_run(input, first);
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        if (child < 0 && argc > 1) break;
        if (child == 0) return differs() + 2 * differs() + 4 * pocketpipe_close();
        int status = -1;
        waitpid(child, &status, 0);
        if (status != 0) return 1;
        if (differs()) return 2;
    }
    fwrite(first, 1, sizeof first, stdout);
    return 0;
}
"""


@compiler
def test_a_program_forks_amid_its_calls_or_may_have_no_threads(delivered: Compiled, tmp_path: Path) -> None:
    folder = delivered(3)
    (tmp_path / "program.c").write_text(PROGRAM)
    command = ["cc", "-Wall", "-Werror", f"-I{folder}", "program.c", folder / "libmodel.a", "-pthread", "-o", "program"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = subprocess.run([tmp_path / "program"], capture_output=True, timeout=60, check=True).stdout
    inputs = (np.arange(np.prod(SHAPE)) % 11 - 5).astype(np.float32).reshape(1, *SHAPE)
    assert np.array_equal(np.frombuffer(found, np.float32), load_library(folder).run_prepared(inputs)[0])
    if os.getuid() == 0:  # else the limit counts what this user runs besides
        alone = subprocess.run([tmp_path / "program", "alone"], capture_output=True, timeout=60, check=True).stdout
        assert alone == found


TEAM_OF_FOUR = f"""{sharing.FEATURES}
#include <stdio.h>
#define POCKETPIPE_THREADS 4
struct places {{ unsigned char *arena; }};
static void compute_part(int step, int part, const struct places *places) {{
    for (int i = 0; i < 50; i++) ((int *)places->arena)[part * 64 + i] += step + 1;
}}
#include "{sharing.TEAM}"
"""

STRESS = """
int main(void) {
    static int sums[64 * 8];
    const struct places places = {(unsigned char *)sums};
    long expected = 0;
    for (int call = 0; call < 1500; call++) {
        const int together = begin();
        for (int step = 0; step < 8; step++) {
            const int parts = 2 + step % 6;
            share(together, step, parts, &places);
            long found = 0;
            for (int i = 0; i < 64 * 8; i++) found += sums[i];
            if (found != (expected += 50L * parts * (step + 1))) return 1;
        }
        end(together);
        if (call % 500 == 499 && pocketpipe_close() != 0) return 2;
        if (call % 100 == 0) usleep(1000); /* they fall asleep */
    }
    return 0;
}
"""


CROWDED = """
static void call(const struct places *places) {
    const int together = begin();
    for (int step = 0; step < 8; step++) share(together, step, 8, places);
    end(together);
}

/* 0: a thread that was put where the caller is may run elsewhere alone after few calls; 1: not; 2: there is one CPU. */
int main(void) {
    static int sums[64 * 8];
    const struct places places = {(unsigned char *)sums};
    cpu_set_t all, mine, now;
    if (sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < 2) return 2;
    for (int attempt = 0; attempt < 200; attempt++) { /* the caller itself may be moved meanwhile */
        call(&places);
        const int here = sched_getcpu(), id = crew.member[0].id;
        CPU_ZERO(&mine);
        CPU_SET(here, &mine);
        if (id != 0) sched_setaffinity(id, sizeof mine, &mine);
        for (int again = 0; again < 3; again++) {
            usleep(2000); /* it falls asleep, wakes and says where it is */
            call(&places);
        }
        sched_getaffinity(id, sizeof now, &now);
        CPU_AND(&mine, &now, &all);
        if (id != 0 && !CPU_ISSET(here, &now) && CPU_EQUAL(&mine, &now)) return 0;
    }
    return 1;
}
"""


def built(program: str, folder: Path, *flags: str) -> Path | None:
    """The program behind a team of four threads; None if the compiler cannot link with these flags."""
    (folder / "program.c").write_text(TEAM_OF_FOUR + program)
    (folder / sharing.TEAM).write_text((resources.files("pocketpipe.targets") / sharing.TEAM).read_text())
    compile_ = ["cc", "-std=gnu11", "-O1", "-Wall", "-Werror", *flags, "-c", "program.c"]
    subprocess.run(compile_, cwd=folder, check=True)
    linked = subprocess.run(
        ["cc", *flags, "program.o", "-pthread", "-o", "program"], cwd=folder, capture_output=True, check=False
    )
    return folder / "program" if linked.returncode == 0 else None


@compiler
def test_every_part_is_done_once_and_no_thread_reads_what_another_writes(tmp_path: Path) -> None:
    program = built(STRESS, tmp_path, "-fsanitize=thread")
    if program is None:
        pytest.skip("needs a compiler with a thread sanitizer")
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@compiler
def test_threads_leave_the_callers_cpu(tmp_path: Path) -> None:
    program = built(CROWDED, tmp_path)
    assert program is not None
    code = subprocess.run([program], timeout=60, check=False).returncode
    if code == 2:
        pytest.skip("needs two CPUs")
    assert code == 0


def test_a_process_that_ends_is_not_held_up(delivered: Compiled) -> None:
    folder = delivered(2)
    code = f"import numpy, pocketpipe; pocketpipe.load({str(folder)!r}).run_prepared(numpy.zeros({(1, *SHAPE)}))"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_what_was_delivered_says_how_many_threads(delivered: Compiled) -> None:
    several, one = delivered(2), delivered(1)
    assert DeliveryMetadata.read(several).threads == 2
    assert "#define POCKETPIPE_THREADS 2" in (several / "pocketpipe_model.h").read_text()
    assert "2 threads share each call" in (several / "README.md").read_text()
    assert "THREADS" not in (one / "pocketpipe_model.h").read_text()
    assert "no threads" in (one / "pocketpipe_model.h").read_text()
    assert b"pthread" not in (one / "model.so").read_bytes()


@pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("cc"), reason="needs CMake and a C compiler")
@pytest.mark.parametrize("threads", [1, 3])
def test_cmake_links_threads_where_there_are_several(threads: int, delivered: Compiled, tmp_path: Path) -> None:
    folder, inputs = delivered(threads), examples(SHAPE, count=2)
    assert ("find_package(Threads" in (folder / "CMakeLists.txt").read_text()) == (threads > 1)
    subprocess.run(["cmake", "-S", folder, "-B", tmp_path], capture_output=True, check=True)
    subprocess.run(["cmake", "--build", tmp_path], capture_output=True, check=True)
    inputs.tofile(tmp_path / "input.bin")
    subprocess.run([tmp_path / "runner", "input.bin", "output.f32"], cwd=tmp_path, timeout=60, check=True)
    found = np.fromfile(tmp_path / "output.f32", np.float32).reshape(2, 10)
    assert np.array_equal(found, load_library(folder)(inputs))


def test_small_layers_stay_with_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "SMALLEST_SHARED", 10**9)
    folder = compiled(tmp_path / "out", 2, "x86_64", quantized=True)
    assert threads_while_calling(folder / "model.so") == [1] * 7


def test_what_has_one_thread_refuses_several(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="target fpga runs on one thread, not on 2"):
        compiled(tmp_path / "out", 2, "fpga", quantized=True)
