// Writes down, in order, everything that a process asks of the files of one folder: what a power cut may take away is then known.
// Loaded before the C library (LD_PRELOAD); FXSCOPE_CUT_FOLDER is the folder, FXSCOPE_CUT_LOG the file to write to.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <string>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

std::recursive_mutex mutex;  // the order of the log is the order of what happened
int log_handle = -1;
const char *folder = nullptr;  // no object: its constructor would run after start()

__attribute__((constructor)) void start() {
    const char *place = getenv("FXSCOPE_CUT_FOLDER"), *log = getenv("FXSCOPE_CUT_LOG");
    if (!place || !log) return;
    log_handle = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    folder = strdup(place);
}

bool ours(const std::string &path) {
    size_t size = folder ? strlen(folder) : 0;
    return size && path.compare(0, size, folder) == 0 && (path.size() == size || path[size] == '/');
}

std::string absolute(int at, const char *path) {
    if (path[0] == '/') return path;
    char name[64], target[4096];
    if (at == AT_FDCWD) snprintf(name, sizeof name, "/proc/self/cwd");
    else snprintf(name, sizeof name, "/proc/self/fd/%d", at);
    ssize_t size = readlink(name, target, sizeof target);
    return size < 0 ? path : std::string(target, (size_t)size) + "/" + path;
}

bool ours(int handle) {
    char name[64], target[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", handle);
    ssize_t size = readlink(name, target, sizeof target);
    return size > 0 && ours(std::string(target, (size_t)size));
}

uint64_t inode(const std::string &path) {
    struct stat found;
    return fstatat(AT_FDCWD, path.c_str(), &found, AT_SYMLINK_NOFOLLOW) ? 0 : found.st_ino;
}

uint64_t inode(int handle) {
    struct stat found;
    return fstat(handle, &found) ? 0 : found.st_ino;
}

void write_all(const void *data, size_t size) {
    for (const char *at = (const char *)data; size;) {
        ssize_t done = syscall(SYS_write, log_handle, at, size);
        if (done <= 0) abort();
        at += done, size -= (size_t)done;
    }
}

struct Head {
    uint64_t kind, inode, offset, name, data;
};

void note(char kind, uint64_t which, uint64_t offset = 0, const std::string &name = "", const void *data = "", size_t size = 0) {
    Head head = {(uint64_t)kind, which, offset, name.size(), size};
    write_all(&head, sizeof head);
    write_all(name.data(), name.size());
    write_all(data, size);
}


int opened(int at, const char *path, int flags, mode_t mode) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    std::string place = absolute(at, path);
    bool known = ours(place), was_there = known && inode(place);
    int handle = (int)syscall(SYS_openat, at, path, flags | O_LARGEFILE, mode);
    if (known && handle >= 0 && !was_there && (flags & O_CREAT)) note('c', inode(handle), 0, place);
    else if (known && handle >= 0 && (flags & O_TRUNC)) note('t', inode(handle), 0);
    return handle;
}

int removed(int at, const char *path, int flags) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    std::string place = absolute(at, path);
    uint64_t which = inode(place);
    int code = (int)syscall(SYS_unlinkat, at, path, flags);
    if (!code && ours(place)) note('u', which, 0, place);
    return code;
}

int moved(int from_at, const char *from, int to_at, const char *to) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    std::string source = absolute(from_at, from), target = absolute(to_at, to);
    uint64_t which = inode(source);
    int code = (int)syscall(SYS_renameat, from_at, from, to_at, to);
    if (!code && ours(source)) note('r', which, 0, source + '\0' + target);
    return code;
}

int made(int at, const char *path, mode_t mode) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    std::string place = absolute(at, path);
    int code = (int)syscall(SYS_mkdirat, at, path, mode);
    if (!code && ours(place)) note('d', inode(place), 0, place);
    return code;
}

int synced(int handle, long call) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    int code = (int)syscall(call, handle);
    if (!code && ours(handle)) note('s', inode(handle));
    return code;
}

ssize_t written(int handle, const void *data, size_t size, off64_t at) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    bool known = ours(handle);
    uint64_t offset = (uint64_t)at;
    if (known && at < 0) {
        struct stat found;
        bool append = (fcntl(handle, F_GETFL) & O_APPEND) && !fstat(handle, &found);
        offset = append ? (uint64_t)found.st_size : (uint64_t)lseek(handle, 0, SEEK_CUR);
    }
    ssize_t done = at < 0 ? syscall(SYS_write, handle, data, size) : syscall(SYS_pwrite64, handle, data, size, at);
    if (done > 0 && known) note('w', inode(handle), offset, "", data, (size_t)done);
    if (done > 0 && handle == 1 && log_handle >= 0) note('a', 0, 0, "", data, (size_t)done);  // what the process told the world
    return done;
}

int truncated(int handle, off64_t size) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    int code = (int)syscall(SYS_ftruncate, handle, size);
    if (!code && ours(handle)) note('t', inode(handle), (uint64_t)size);
    return code;
}

mode_t mode_of(int flags, va_list &list) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; }

}  // namespace

#define MODE va_list list; va_start(list, flags); mode_t mode = mode_of(flags, list); va_end(list)

extern "C" {
int open(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE; return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE; return opened(at, path, flags, mode); }
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return removed(at, path, flags); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int rename(const char *from, const char *to) { return moved(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int a, const char *from, int b, const char *to) { return moved(a, from, b, to); }
int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return made(at, path, mode); }
int fsync(int handle) { return synced(handle, SYS_fsync); }
int fdatasync(int handle) { return synced(handle, SYS_fdatasync); }
ssize_t write(int handle, const void *data, size_t size) { return written(handle, data, size, -1); }
ssize_t pwrite(int handle, const void *data, size_t size, off_t at) { return written(handle, data, size, at); }
ssize_t pwrite64(int handle, const void *data, size_t size, off64_t at) { return written(handle, data, size, at); }
int ftruncate(int handle, off_t size) noexcept { return truncated(handle, size); }
int ftruncate64(int handle, off64_t size) noexcept { return truncated(handle, size); }
}
