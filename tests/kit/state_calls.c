/* Preloaded into the runner: counts the calls by which it changes or reads a directory, over all
 * threads and all kinds of call, and ends the process as it enters the Nth. A count of strace's is
 * kept for each thread and each kind by itself, so it can't reach what the third thread does first.
 *
 * STATE_CALLS names a file of two lines, N and the directory. It is removed as the call strikes, so
 * that the next life lives. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[4096];
static char control[4096];
static long strikes_at;
static long calls;

__attribute__((constructor)) static void read_control(void)
{
    const char *path = getenv("STATE_CALLS");
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!file)
        return;
    long at = 0;
    if (fscanf(file, "%ld %4095s", &at, directory) == 2) {
        snprintf(control, sizeof control, "%s", path);
        strikes_at = at;
    }
    fclose(file);
}

static void enter(const char *path)
{
    if (!strikes_at || strncmp(path, directory, strlen(directory)))
        return;
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) == strikes_at) {
        unlink(control);
        kill(getpid(), SIGKILL);
    }
}

static void enter_fd(int fd)
{
    char link[64], path[4096];
    if (!strikes_at)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        enter(path);
    }
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                               \
    int name(const char *path, int flags, ...)                                                   \
    {                                                                                            \
        va_list rest;                                                                            \
        va_start(rest, flags);                                                                   \
        mode_t mode = va_arg(rest, mode_t);                                                      \
        va_end(rest);                                                                            \
        enter(path);                                                                             \
        return REAL(name)(path, flags, mode);                                                    \
    }

OPEN(open)
OPEN(open64)

DIR *opendir(const char *path)
{
    enter(path);
    return REAL(opendir)(path);
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    enter_fd(fd);
    return REAL(write)(fd, bytes, count);
}

int fsync(int fd)
{
    enter_fd(fd);
    return REAL(fsync)(fd);
}

int rename(const char *from, const char *to)
{
    enter(from);
    return REAL(rename)(from, to);
}

/* `control` lies elsewhere. */
int unlink(const char *path)
{
    enter(path);
    return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode)
{
    enter(path);
    return REAL(mkdir)(path, mode);
}
