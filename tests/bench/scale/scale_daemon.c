/* A daemon of the bench's own, on processors of its own */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/scale/scale.h"

enum { READY_SECONDS = 180 };

static void write_config(const struct scale_daemon_args *args, const struct scale_daemon *d)
{
    char path[96];
    FILE *file;

    snprintf(path, sizeof(path), "%s/conf", d->folder);
    file = fopen(path, "w");
    if (!file)
        scale_die("%s: %s", path, strerror(errno));
    fprintf(file,
            "[daemon]\nruntime_dir = %s/run\nstate_dir = %s/state\nallow_same_uid = true\n"
            "workers = %u\ngrace_seconds = 2\n[http]\nlisten = off\n[tenant bench]\nuids = self\n"
            "arena_bytes = %llu\nstaging_bytes = %llu\nstaging_total_bytes = %llu\n",
            d->folder, d->folder, args->n_workers, (unsigned long long)args->arena_bytes,
            (unsigned long long)args->staging_bytes, (unsigned long long)args->staging_total_bytes);
    if (fclose(file))
        scale_die("%s: %s", path, strerror(errno));
}

static _Noreturn void become(const struct scale_daemon_args *args, const struct scale_daemon *d)
{
    char conf[96], log[96];
    int fd;

    snprintf(conf, sizeof(conf), "%s/conf", d->folder);
    snprintf(log, sizeof(log), "%s/log", d->folder);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 ||
        sched_setaffinity(0, sizeof(args->cpus), &args->cpus))
        _exit(127);
    if (args->preload) {
        setenv("LD_PRELOAD", args->preload, 1);
        setenv("SCALE_COUNTS", args->counts_path, 1);
    }
    execl(args->path, args->path, "--config", conf, (char *)NULL);
    _exit(127);
}

/* Is the line there that says so? */
static bool log_says(const struct scale_daemon *d, const char *what)
{
    char path[96], text[16384];
    size_t n = 0;
    FILE *file;

    snprintf(path, sizeof(path), "%s/log", d->folder);
    file = fopen(path, "r");
    if (file) {
        n = fread(text, 1, sizeof(text) - 1, file);
        fclose(file);
    }
    text[n] = 0;
    return strstr(text, what);
}

void scale_daemon_start(const struct scale_daemon_args *args, struct scale_daemon *ret_daemon)
{
    struct scale_daemon d = { .folder = "/tmp/bench_scale.XXXXXX", .cpus = args->cpus };
    double end = scale_now() + READY_SECONDS;

    if (!mkdtemp(d.folder))
        scale_die("%s: %s", d.folder, strerror(errno));
    snprintf(d.socket_path, sizeof(d.socket_path), "%s/run/grpc.sock", d.folder);
    write_config(args, &d);
    d.pid = fork();
    if (!d.pid)
        become(args, &d);
    while (!log_says(&d, " ready: ")) {
        if (d.pid < 0 || waitpid(d.pid, NULL, WNOHANG) || scale_now() > end)
            scale_die("%s did not get ready: %s/log says why", args->path, d.folder);
        usleep(20000);
    }
    *ret_daemon = d;
}

void scale_daemon_stop(struct scale_daemon *daemon)
{
    char command[128];

    kill(daemon->pid, SIGTERM);
    waitpid(daemon->pid, NULL, 0);
    snprintf(command, sizeof(command), "rm -r %s", daemon->folder);
    (void)!system(command); /* of mkdtemp()'s letters */
}

uint64_t scale_daemon_kib(const struct scale_daemon *daemon, const char *name)
{
    char path[64], line[256];
    size_t n = strlen(name);
    uint64_t kib = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)daemon->pid);
    file = fopen(path, "r");
    while (file && fgets(line, sizeof(line), file))
        if (!strncmp(line, name, n) && line[n] == ':')
            kib = strtoull(line + n + 1, NULL, 10);
    if (file)
        fclose(file);
    return kib;
}

struct scale_time scale_daemon_time(const struct scale_daemon *daemon)
{
    struct scale_time now = { .wall = scale_now() };
    struct timespec t = { 0 };
    clockid_t clock;

    if (clock_getcpuclockid(daemon->pid, &clock) || clock_gettime(clock, &t))
        scale_die("the daemon's processor time can't be read");
    now.cpu = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    return now;
}

struct scale_time scale_daemon_since(const struct scale_daemon *daemon,
                                     const struct scale_time *then)
{
    struct scale_time now = scale_daemon_time(daemon);

    return (struct scale_time){ now.wall - then->wall, now.cpu - then->cpu };
}

void scale_daemon_reset_peak(const struct scale_daemon *daemon)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)daemon->pid);
    fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, "5", 1) != 1)
        scale_die("%s: %s", path, strerror(errno));
    close(fd);
}
