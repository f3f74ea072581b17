"""The doors: a task, a network and a step that pocketpipe has never heard of go through the whole chain."""

import json

from end_to_end.conftest import House


def test_own_task_network_and_step_go_through_the_chain(house: House) -> None:
    run = house.run(
        "compress",
        "task.name=own.tasks:build,task.options.count=240,network.name=own.networks:build,network.options.width=12,"
        "methods=[own.steps:Evenly],targets=[x86_64],budget.speedup=2.0,budget.compression=1.5",
    )
    assert run.code == 0, run.out
    plan = json.loads((house.latest("plan") / "plan.json").read_text())
    assert [step["kind"] for step in plan] == ["own.steps:Evenly"]
    network = json.loads((house.latest("student") / "network" / "network.json").read_text())
    assert network["reference"] == "own.networks:build"
    assert network["options"] == {"width": 12}
    metadata = json.loads((house.latest("deliveries") / "content" / "x86_64" / "metadata.json").read_text())
    assert metadata["task"] == "own.tasks:build"
    assert metadata["labels"] == ["bar", "cross", "square"]
