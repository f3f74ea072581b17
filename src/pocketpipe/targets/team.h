/* A team: the thread that calls, and POCKETPIPE_THREADS - 1 of the library's own, which share the parts of a step.

   Parts are taken, not given: a thread that is late or asleep costs nothing but its help, and where none could be
   created the caller does everything. Each takes the part of its own number first, the caller 0: as a rule that is the
   share of a step whose inputs its cache has from the step before. Threads that share a CPU with another of the team are
   sent to a free one. A call that finds the team at work for another works alone. Nothing is allocated but the threads,
   on first use; they end with pocketpipe_close or when the library is unloaded. A child process after fork has none: it
   notices by its number, and makes its own. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATIENCE 4000 /* looks at a number before going to sleep over it: some 100 microseconds */
#define PARTS 0xffffffff /* the bits of a ticket that stand for parts: at most 32 */
#define UNKNOWN (-1) /* a CPU */

static struct {
    _Atomic uint64_t ticket; /* a bit for each part of the present step that is not taken; above, its number in time */
    int step;
    const struct places *places;
    _Atomic int asleep, closing;
    __attribute__((aligned(64))) _Atomic uint64_t left; /* parts that are not done; apart, for it is waited on */
    _Atomic pid_t owner; /* the process whose call has the team, or 0 */
    pid_t process;       /* the one whose threads these are */
    int threads;
    struct member {
        pthread_t thread;
        _Atomic pid_t id;
        _Atomic int cpu; /* where it was when it last woke, or UNKNOWN */
    } member[POCKETPIPE_THREADS - 1];
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} crew;

static inline void pause_a_little(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* Return when *number is another than `seen`: whether the thread slept over it. */
static int wait_for_change(const _Atomic uint64_t *number, uint64_t seen) {
    for (int look = 0; look < PATIENCE; look++) {
        if (atomic_load(number) != seen) return 0;
        pause_a_little();
    }
    pthread_mutex_lock(&crew.mutex);
    atomic_fetch_add(&crew.asleep, 1); /* before the last look: who changes the number sees one of the two */
    while (atomic_load(number) == seen) pthread_cond_wait(&crew.changed, &crew.mutex);
    atomic_fetch_sub(&crew.asleep, 1);
    pthread_mutex_unlock(&crew.mutex);
    return 1;
}

/* After a number has changed. */
static void wake(void) {
    if (atomic_load(&crew.asleep) == 0) return;
    pthread_mutex_lock(&crew.mutex);
    pthread_cond_broadcast(&crew.changed);
    pthread_mutex_unlock(&crew.mutex);
}

/* Do parts, number `own` first, until all are taken; the ticket as it was then. */
static uint64_t work(int own) {
    uint64_t ticket = atomic_load(&crew.ticket);
    while (ticket & PARTS) {
        const int part = ticket >> own & 1 ? own : __builtin_ctzll(ticket);
        if (!atomic_compare_exchange_weak(&crew.ticket, &ticket, ticket & ~(UINT64_C(1) << part))) continue;
        /* The step stays as long as a part of it is not done. */
        compute_part(crew.step, part, crew.places);
        if (atomic_fetch_sub(&crew.left, 1) == 1) wake();
        ticket = atomic_load(&crew.ticket);
    }
    return ticket;
}

static void *attend(void *member) {
    struct member *const self = member;
    atomic_store(&self->id, (pid_t)syscall(SYS_gettid));
    atomic_store(&self->cpu, sched_getcpu());
    for (;;) {
        const uint64_t seen = work((int)(self - crew.member) + 1);
        if (atomic_load(&crew.closing)) return NULL; /* set before the ticket changes for the last time */
        if (wait_for_change(&crew.ticket, seen)) atomic_store(&self->cpu, sched_getcpu());
    }
}

/* A thread that wakes is often put where its waker runs, and stays there for milliseconds, which is longer than a call:
   those that share a CPU with the caller or with one before them may from now on run where nobody of the team is. */
static void keep_apart(void) {
    cpu_set_t taken, everywhere, elsewhere;
    CPU_ZERO(&taken);
    CPU_SET(sched_getcpu(), &taken);
    for (struct member *each = crew.member; each < crew.member + crew.threads; each++) {
        const int cpu = atomic_load(&each->cpu);
        if (cpu == UNKNOWN) continue;
        if (!CPU_ISSET(cpu, &taken)) {
            CPU_SET(cpu, &taken);
            continue;
        }
        if (sched_getaffinity(0, sizeof everywhere, &everywhere) != 0) return;
        CPU_XOR(&elsewhere, &everywhere, &taken);
        CPU_AND(&elsewhere, &elsewhere, &everywhere);
        if (CPU_COUNT(&elsewhere) == 0) return;
        atomic_store(&each->cpu, UNKNOWN);
        sched_setaffinity(atomic_load(&each->id), sizeof elsewhere, &elsewhere);
    }
}

/* Threads for this process; those that cannot be created are missing. Signals are left to the program's own. */
static void start(pid_t process) {
    crew.mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    crew.changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    atomic_store(&crew.asleep, 0);
    atomic_store(&crew.closing, 0);
    atomic_store(&crew.ticket, 0);
    crew.process = process;
    crew.threads = 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; crew.threads < POCKETPIPE_THREADS - 1; crew.threads++) {
        struct member *const next = &crew.member[crew.threads];
        atomic_store(&next->cpu, UNKNOWN);
        if (pthread_create(&next->thread, NULL, attend, next) != 0) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Whether `process` has the team to itself now; not while another of its threads has. */
static int take_over(pid_t process) {
    pid_t owner = atomic_load(&crew.owner); /* of another process, if one forked amid a call */
    return owner != process && atomic_compare_exchange_strong(&crew.owner, &owner, process);
}

/* Before the steps of a call: whether it has the team. */
static int begin(void) {
    const pid_t process = getpid();
    if (!take_over(process)) return 0;
    if (crew.process != process) start(process);
    if (crew.threads > 0) {
        keep_apart();
        return 1;
    }
    atomic_store(&crew.owner, 0);
    return 0;
}

static void end(int together) {
    if (together) atomic_store(&crew.owner, 0);
}

static void share(int together, int step, int parts, const struct places *places) {
    if (!together) {
        for (int part = 0; part < parts; part++) compute_part(step, part, places);
        return;
    }
    crew.step = step;
    crew.places = places;
    atomic_store(&crew.left, (uint64_t)parts);
    const uint64_t number = (atomic_load(&crew.ticket) | PARTS) + 1;
    atomic_store(&crew.ticket, number | ((UINT64_C(1) << parts) - 1));
    wake();
    work(0);
    for (uint64_t left; (left = atomic_load(&crew.left)) != 0;) wait_for_change(&crew.left, left);
}

int pocketpipe_close(void) {
    const pid_t process = getpid();
    if (!take_over(process)) return 1;
    if (crew.process == process) {
        atomic_store(&crew.closing, 1);
        atomic_fetch_add(&crew.ticket, (uint64_t)PARTS + 1);
        wake();
        while (crew.threads > 0) pthread_join(crew.member[--crew.threads].thread, NULL);
        crew.process = 0;
    }
    atomic_store(&crew.owner, 0);
    return 0;
}

__attribute__((destructor)) static void close_at_unload(void) { (void)pocketpipe_close(); }
