/* Saved gates and LSTMs: the header, its checks, and files; internal.h describes the form. */
#define _POSIX_C_SOURCE 200809L
#include "internal.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = {'f', 'a', 's', 't', 'g', 'a', 't', 'e'};

/* where the CRC begins */
#define CHECKED offsetof(fg_saved, format)

/* Eight bytes at a time, by eight tables (M. Kounavis and F. Berry, "A systematic approach to building
 * high performance, software-based, CRC generators", 2005); made anew, which is nothing beside a file. */
uint32_t fg_crc32(uint32_t crc, const void *data, size_t size)
{
    uint32_t table[8][256];
    for (uint32_t i = 0; i < 256; i++) {
        table[0][i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[0][i] = table[0][i] >> 1 ^ (table[0][i] & 1 ? 0xedb88320 : 0);
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
    const unsigned char *at = data;
    crc = ~crc;
    for (; size >= 8; size -= 8, at += 8) {
        const uint32_t low = crc ^ ((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
                                    (uint32_t)at[3] << 24);
        crc = table[7][low & 0xff] ^ table[6][low >> 8 & 0xff] ^ table[5][low >> 16 & 0xff] ^
              table[4][low >> 24] ^ table[3][at[4]] ^ table[2][at[5]] ^ table[1][at[6]] ^ table[0][at[7]];
    }
    for (; size; size--, at++)
        crc = crc >> 8 ^ table[0][(crc ^ *at) & 0xff];
    return ~crc;
}

size_t fg_section(size_t *end, size_t bytes)
{
    if (*end > PTRDIFF_MAX - FG_LINE || bytes > PTRDIFF_MAX - FG_LINE - *end)
        return *end = SIZE_MAX;
    if (!bytes)
        return *end;
    const size_t offset = (*end + FG_LINE - 1) / FG_LINE * FG_LINE;
    *end = offset + bytes;
    return offset;
}

int fg_open_saved(fg_saved *header, fg_saved_kind kind, const void *buffer, size_t size)
{
    if (size < sizeof *header || (uintptr_t)buffer % FG_LINE)
        return FASTGATE_ERROR_FORMAT;
    memcpy(header, buffer, sizeof *header);
    if (memcmp(header->magic, magic, sizeof magic) || header->size != size ||
        fg_crc32(0, (const char *)buffer + CHECKED, size - CHECKED) != header->crc)
        return FASTGATE_ERROR_FORMAT;
    if (header->format != FASTGATE_FORMAT)
        return FASTGATE_ERROR_VERSION;
    return header->kind == (uint32_t)kind ? FASTGATE_OK : FASTGATE_ERROR_FORMAT;
}

int fg_same_header(const fg_saved *header, const fg_saved *expected)
{
    const size_t from = offsetof(fg_saved, size);
    return !memcmp((const char *)header + from, (const char *)expected + from, sizeof *header - from);
}

void fg_seal(void *buffer, const fg_saved *header)
{
    fg_saved sealed = *header;
    memcpy(sealed.magic, magic, sizeof magic);
    sealed.format = FASTGATE_FORMAT;
    sealed.crc = fg_crc32(0, (const char *)&sealed + CHECKED, sizeof sealed - CHECKED);
    sealed.crc = fg_crc32(sealed.crc, (const char *)buffer + sizeof sealed, (size_t)header->size - sizeof sealed);
    memcpy(buffer, &sealed, sizeof sealed);
}

/* ---- files ------------------------------------------------------------------------------------- */

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEPARATORS "/" /* before the name of a file */

int fg_open_file(fg_file *file, const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe may have no writer */
    struct stat status;
    if (fd < 0)
        return FASTGATE_ERROR_FILE;
    int rc = fstat(fd, &status) ? FASTGATE_ERROR_FILE : FASTGATE_OK;
    if (!rc && !S_ISREG(status.st_mode))
        rc = FASTGATE_ERROR_FILE, errno = ENODEV;
    if (!rc && (status.st_size < (off_t)sizeof(fg_saved) || (uintmax_t)status.st_size > PTRDIFF_MAX))
        rc = FASTGATE_ERROR_FORMAT;
    if (!rc) {
        file->block = NULL;
        file->size = (size_t)status.st_size;
        file->data = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file->data == MAP_FAILED)
            rc = errno == ENOMEM ? FASTGATE_ERROR_MEMORY : FASTGATE_ERROR_FILE;
    }
    const int error = errno;
    close(fd);
    errno = error;
    return rc;
}

void fg_close_file(fg_file *file)
{
    if (file->size)
        munmap(file->data, file->size);
}

static long process(void)
{
    return (long)getpid();
}

/* Whether a new file may be put there: not in place of a device or pipe, as /dev/null; errno says why. */
static int is_replaceable(const char *path)
{
    struct stat status;
    if (stat(path, &status) || S_ISREG(status.st_mode))
        return 1;
    errno = S_ISDIR(status.st_mode) ? EISDIR : ENODEV;
    return 0;
}
#else
#define SEPARATORS "/\\:"

int fg_open_file(fg_file *file, const char *path)
{
    FILE *stream = fopen(path, "rb");
    if (!stream)
        return FASTGATE_ERROR_FILE;
    long size = -1;
    int rc = FASTGATE_ERROR_FILE;
    if (!fseek(stream, 0, SEEK_END) && (size = ftell(stream)) >= 0 && !fseek(stream, 0, SEEK_SET))
        rc = size < (long)sizeof(fg_saved) ? FASTGATE_ERROR_FORMAT : FASTGATE_OK;
    if (!rc && !(file->block = malloc((size_t)size + FG_LINE)))
        rc = FASTGATE_ERROR_MEMORY;
    if (!rc) {
        file->size = (size_t)size;
        file->data = (char *)file->block + (FG_LINE - (uintptr_t)file->block % FG_LINE) % FG_LINE;
        if (fread(file->data, 1, file->size, stream) != file->size) {
            fg_close_file(file);
            rc = FASTGATE_ERROR_FILE;
        }
    }
    fclose(stream);
    return rc;
}

void fg_close_file(fg_file *file)
{
    if (file->size)
        free(file->block);
}

static long process(void)
{
    return 0;
}

static int is_replaceable(const char *path)
{
    (void)path;
    return 1;
}
#endif

int fg_write_file(const char *path, const void *data, size_t size)
{
    static atomic_uint writers;
    if (!is_replaceable(path))
        return FASTGATE_ERROR_FILE;
    size_t folder = strlen(path);
    char *beside = malloc(folder + 64);
    if (!beside)
        return FASTGATE_ERROR_MEMORY;
    memcpy(beside, path, folder);
    while (folder && !strchr(SEPARATORS, path[folder - 1]))
        folder--;
    FILE *stream;
    do /* a new one: not what a link leads to, nor what another container's process of this number writes; and a name
          of its own, as the name of the file may leave no room for more */
        snprintf(beside + folder, 64, ".fastgate-%ld-%u.tmp", process(), atomic_fetch_add(&writers, 1));
    while (!(stream = fopen(beside, "wbx")) && errno == EEXIST);
    int failed = !stream;
    if (stream) {
        setvbuf(stream, NULL, _IONBF, 0); /* all at once */
        failed = fwrite(data, 1, size, stream) != size;
        failed |= fclose(stream) != 0;
#ifdef _WIN32 /* where rename replaces nothing */
        if (!failed)
            remove(path);
#endif
        failed = failed || rename(beside, path);
    }
    if (failed && stream) {
        const int error = errno;
        remove(beside);
        errno = error;
    }
    free(beside);
    return !failed ? FASTGATE_OK : errno == ENOMEM ? FASTGATE_ERROR_MEMORY : FASTGATE_ERROR_FILE;
}
