/* Makes system calls fail, or the clock jump, as a control file says: LD_PRELOADed into the node under test.
 *
 * FAULTS_CONTROL names the file; its lines are "CALL ERRNO" (read, write, open), "clock SECONDS" or "panic NUMBER". Only files under
 * FAULTS_ROOT are concerned. Without the file, all is as it would be without this. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static __thread int inside;

/* The number in the control file for a word; 0 if there is none. */
static long control(const char *word)
{
    const char *path = getenv("FAULTS_CONTROL");
    char text[256];
    long fd, got;
    if (!path || inside) return 0;
    fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    got = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (got <= 0) return 0;
    text[got] = 0;
    size_t length = strlen(word);
    for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, word, length) && line[length] == ' ') return atol(line + length + 1);
    return 0;
}

static int concerns_path(const char *path)
{
    const char *root = getenv("FAULTS_ROOT");
    return root && path && !strncmp(path, root, strlen(root));
}

static int concerns(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return concerns_path(path);
}

#define FAIL_IF(condition, word, result)                 \
    do {                                                 \
        int kept = errno;                                \
        long error = (condition) ? control(word) : 0;    \
        if (error) { errno = (int)error; return result; } \
        errno = kept;                                    \
    } while (0)

#define REAL(name, type) \
    static __typeof__(type) real; \
    if (!real) real = (__typeof__(type))dlsym(RTLD_NEXT, name)

ssize_t pread64(int fd, void *buffer, size_t count, off64_t offset)
{
    REAL("pread64", ssize_t (*)(int, void *, size_t, off64_t));
    FAIL_IF(concerns(fd), "read", -1);
    return real(fd, buffer, count, offset);
}

ssize_t preadv64v2(int fd, const struct iovec *vector, int count, off64_t offset, int flags)
{
    REAL("preadv64v2", ssize_t (*)(int, const struct iovec *, int, off64_t, int));
    FAIL_IF(concerns(fd), "read", -1);
    return real(fd, vector, count, offset, flags);
}

ssize_t preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
    REAL("preadv2", ssize_t (*)(int, const struct iovec *, int, off_t, int));
    FAIL_IF(concerns(fd), "read", -1);
    return real(fd, vector, count, offset, flags);
}

ssize_t write(int fd, const void *buffer, size_t count)
{
    REAL("write", ssize_t (*)(int, const void *, size_t));
    FAIL_IF(concerns(fd), "write", -1);
    return real(fd, buffer, count);
}

ssize_t writev(int fd, const struct iovec *vector, int count)
{
    REAL("writev", ssize_t (*)(int, const struct iovec *, int));
    FAIL_IF(concerns(fd), "write", -1);
    return real(fd, vector, count);
}

ssize_t pwrite64(int fd, const void *buffer, size_t count, off64_t offset)
{
    REAL("pwrite64", ssize_t (*)(int, const void *, size_t, off64_t));
    FAIL_IF(concerns(fd), "write", -1);
    return real(fd, buffer, count, offset);
}

int open64(const char *path, int flags, ...)
{
    REAL("open64", int (*)(const char *, int, ...));
    va_list arguments;
    va_start(arguments, flags);
    int mode = va_arg(arguments, int);
    va_end(arguments);
    FAIL_IF(concerns_path(path), "open", -1);
    return real(path, flags, mode);
}

/* Once for each number: the next reading of the wall clock after a connection is made fails, at which Rust's library
 * panics. */
static int armed;
static long fired;

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    REAL("connect", int (*)(int, const struct sockaddr *, socklen_t));
    long number = control("panic");
    if (number && number != fired) {
        armed = 1;
        fired = number;
    }
    return real(fd, address, length);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    REAL("clock_gettime", int (*)(clockid_t, struct timespec *));
    if (clock == CLOCK_REALTIME && armed) {
        armed = 0;
        errno = EINVAL;
        return -1;
    }
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += control("clock");
    return result;
}
