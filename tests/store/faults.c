/* Counts the calls that change the disk, made by Python or by SQLite, and lets one of them go wrong; sets the time of
 * day forward or back. Preloaded into tests/store/crash.py and tests/chaos/nursery.py, which arm it by ctypes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { KILL = 0, TORN = -1 }; /* a positive fault is an errno */

static long calls, fail_at, sticky;
static int fault, trace_fd = -1;

void faults_arm(long at, int what, int keeps_failing) { calls = 0, fail_at = at, fault = what, sticky = keeps_failing; }
long faults_calls(void) { return calls; }
void faults_trace(int fd) { trace_fd = fd; }

static int due(void) {
    calls++;
    return fail_at && (calls == fail_at || (sticky && calls > fail_at));
}

/* 1 if the call has to fail with errno set; does not return if the process has to die before the call. */
static int goes_wrong(void) {
    if (!due()) return 0;
    if (fault <= 0) raise(SIGKILL);
    errno = fault;
    return 1;
}

static void trace(const char *call, const char *path, const char *to) {
    if (trace_fd >= 0) dprintf(trace_fd, "%s %s %s\n", call, path, to);
}

static void trace_of(const char *call, int fd) {
    char link[64], path[PATH_MAX];
    if (trace_fd < 0) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    trace(call, path, "");
}

static int is_file(int fd) {
    struct stat status;
    return fd > 2 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode); /* what is said to people is not the store's */
}

#define REAL(name, type, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

#define WRITES(name, parameters, arguments, half, ...)                                                                \
    ssize_t name parameters {                                                                                         \
        ssize_t (*real) parameters = REAL(name, ssize_t, __VA_ARGS__);                                                \
        if (!is_file(fd) || trace_fd == fd) return real arguments;                                                    \
        if (fail_at && fault == TORN && calls + 1 == fail_at) real half;                                              \
        if (goes_wrong()) return -1;                                                                                  \
        trace_of("write", fd);                                                                                        \
        return real arguments;                                                                                        \
    }
WRITES(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2), int, const void *, size_t)
WRITES(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at), int,
       const void *, size_t, off_t)
WRITES(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), (fd, data, size / 2, at),
       int, const void *, size_t, off64_t)

#define ON_FD(name, word, parameters, arguments, ...)                                                                 \
    int name parameters {                                                                                             \
        if (goes_wrong()) return -1;                                                                                  \
        trace_of(word, fd);                                                                                           \
        return REAL(name, int, __VA_ARGS__) arguments;                                                                \
    }
ON_FD(fsync, "sync", (int fd), (fd), int)
ON_FD(fdatasync, "sync", (int fd), (fd), int)
ON_FD(ftruncate, "write", (int fd, off_t size), (fd, size), int, off_t)
ON_FD(ftruncate64, "write", (int fd, off64_t size), (fd, size), int, off64_t)

#define ON_PATH(name, parameters, arguments, to, ...)                                                                 \
    int name parameters {                                                                                             \
        if (goes_wrong()) return -1;                                                                                  \
        trace(#name, path, to);                                                                                       \
        return REAL(name, int, __VA_ARGS__) arguments;                                                                \
    }
ON_PATH(rename, (const char *path, const char *target), (path, target), target, const char *, const char *)
ON_PATH(unlink, (const char *path), (path), "", const char *)
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode), "", const char *, mode_t)

#define OPENS(name)                                                                                                   \
    int name(const char *path, int flags, ...) {                                                                      \
        va_list rest;                                                                                                 \
        va_start(rest, flags);                                                                                        \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                                     \
        va_end(rest);                                                                                                 \
        int creates = (flags & O_CREAT) && access(path, F_OK) != 0;                                                   \
        if (creates && goes_wrong()) return -1;                                                                       \
        if (creates) trace("create", path, "");                                                                       \
        return REAL(name, int, const char *, int, ...)(path, flags, mode);                                            \
    }
OPENS(open)
OPENS(open64)

static long jumped_s;
void faults_jump(long seconds) { jumped_s = seconds; }
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime, int, clockid_t, struct timespec *)(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += jumped_s;
    return result;
}
