/* Makes system calls fail or hang, the clock jump, or what is not synced be lost, as a control file says: LD_PRELOADed
 * into the node under test.
 *
 * FAULTS_CONTROL names the file; its lines are "CALL ERRNO" (read, write, open, unlink), "hang 1" (reads and opens), "hang-write 1",
 * "slow MILLISECONDS" (writes), "slow-unlink MILLISECONDS", "clock SECONDS" or "panic NUMBER". Only files under FAULTS_ROOT are
 * concerned. Without the file, all is as it would be without this.
 *
 * If FAULTS_LOST is set, it is a directory on the same file system where whatever a power failure would bring back is kept,
 * for the test to put it back: what was under a name that was removed or replaced ("n" and the path, with ! for /) until its
 * directory or the file system is synced, and what was in a file before it was changed in place ("d") until that is. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

/* The path of a file that is concerned; NULL: it is not. */
static const char *path_of(int fd, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, size - 1);
    if (length <= 0) return NULL;
    path[length] = 0;
    return concerns_path(path) ? path : NULL;
}

static int concerns(int fd)
{
    char path[4096];
    return path_of(fd, path, sizeof path) != NULL;
}

/* Waits as long as the disk hangs. */
static void hang_if(int concerned, const char *word)
{
    struct timespec moment = {0, 20000000};
    int kept = errno;
    while (concerned && control(word)) nanosleep(&moment, NULL);
    errno = kept;
}

/* Makes a call take its time. */
static void slow_if(int concerned, const char *word)
{
    long milliseconds = concerned ? control(word) : 0;
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    int kept = errno;
    if (milliseconds) nanosleep(&time, NULL);
    errno = kept;
}

/* Where what is lost of a path is kept; NULL: nothing is. What is written aside is no loss. */
static char *lost(char kind, const char *path, char *name, size_t size)
{
    const char *directory = getenv("FAULTS_LOST"), *root = getenv("FAULTS_ROOT");
    if (!directory || !root || !concerns_path(path) || strstr(path + strlen(root), "/tmp/")) return NULL;
    int length = snprintf(name, size, "%s/%c%s", directory, kind, path);
    for (char *at = name + strlen(directory) + 1; *at && length > 0; at++)
        if (*at == '/') *at = '!';
    return name;
}

/* The name is about to be taken off what it is of. */
static void keep_name(const char *path)
{
    char name[4096];
    if (lost('n', path, name, sizeof name)) syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, name, 0); /* the first counts */
}

/* What is in the file is about to be changed in place. */
static void keep_data(int fd)
{
    char path[4096], name[4096], block[65536];
    const char *concerned = path_of(fd, path, sizeof path);
    if (!concerned || !lost('d', path, name, sizeof name)) return;
    int copy = syscall(SYS_openat, AT_FDCWD, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (copy < 0) return; /* the first counts */
    long got, at = 0;
    while ((got = syscall(SYS_pread64, fd, block, sizeof block, at)) > 0) {
        syscall(SYS_pwrite64, copy, block, got, at);
        at += got;
    }
    syscall(SYS_close, copy);
}

/* What was kept of this kind under a path is synced by now. */
static void synced(char kind, const char *path, int below)
{
    const char *directory = getenv("FAULTS_LOST");
    char prefix[4096], file[8192];
    if (!directory || !lost(kind, path, prefix, sizeof prefix)) return;
    const char *wanted = prefix + strlen(directory) + 1;
    DIR *all = opendir(directory);
    struct dirent *one;
    while (all && (one = readdir(all))) {
        size_t length = strlen(wanted);
        int same = !strncmp(one->d_name, wanted, length) && (below || !one->d_name[length]);
        /* Of a directory, what is in it and not further down. */
        if (same && below == 1 && strchr(one->d_name + length + 1, '!')) same = 0;
        snprintf(file, sizeof file, "%s/%s", directory, one->d_name);
        if (same) syscall(SYS_unlinkat, AT_FDCWD, file, 0);
    }
    if (all) closedir(all);
}

static void synced_fd(int fd)
{
    char path[4096];
    struct stat of;
    if (!path_of(fd, path, sizeof path) || fstat(fd, &of)) return;
    if (S_ISDIR(of.st_mode)) synced('n', path, 1);
    else synced('d', path, 0);
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
    hang_if(concerns(fd), "hang");
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
    hang_if(concerns(fd), "hang-write");
    slow_if(concerns(fd), "slow");
    FAIL_IF(concerns(fd), "write", -1);
    return real(fd, buffer, count);
}

ssize_t writev(int fd, const struct iovec *vector, int count)
{
    REAL("writev", ssize_t (*)(int, const struct iovec *, int));
    slow_if(concerns(fd), "slow");
    FAIL_IF(concerns(fd), "write", -1);
    return real(fd, vector, count);
}

ssize_t pwrite64(int fd, const void *buffer, size_t count, off64_t offset)
{
    REAL("pwrite64", ssize_t (*)(int, const void *, size_t, off64_t));
    slow_if(concerns(fd), "slow");
    FAIL_IF(concerns(fd), "write", -1);
    keep_data(fd);
    return real(fd, buffer, count, offset);
}

int unlink(const char *path)
{
    REAL("unlink", int (*)(const char *));
    slow_if(concerns_path(path), "slow-unlink");
    FAIL_IF(concerns_path(path), "unlink", -1);
    keep_name(path);
    return real(path);
}

int rename(const char *from, const char *to)
{
    REAL("rename", int (*)(const char *, const char *));
    keep_name(to);
    return real(from, to);
}

int fsync(int fd)
{
    REAL("fsync", int (*)(int));
    int result = real(fd);
    if (!result) synced_fd(fd);
    return result;
}

int fdatasync(int fd)
{
    REAL("fdatasync", int (*)(int));
    int result = real(fd);
    if (!result) synced_fd(fd);
    return result;
}

int syncfs(int fd)
{
    REAL("syncfs", int (*)(int));
    int result = real(fd);
    const char *root = getenv("FAULTS_ROOT");
    if (!result && root && concerns(fd)) {
        synced('n', root, 2);
        synced('d', root, 2);
    }
    return result;
}

int open64(const char *path, int flags, ...)
{
    REAL("open64", int (*)(const char *, int, ...));
    va_list arguments;
    va_start(arguments, flags);
    int mode = va_arg(arguments, int);
    va_end(arguments);
    hang_if(concerns_path(path), "hang");
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
