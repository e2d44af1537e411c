/* Saved gates and LSTMs: the header, its checks, and files; internal.h describes the form. */
#include "os.h"

#include "internal.h"

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

/* Whether the CRC is that of the header.  It may take long: a hole in a file has any size. */
static int check_crc(const fg_saved *header, const void *buffer, size_t size)
{
    fg_watch watch;
    uint32_t crc = 0;
    fg_begin(&watch, size);
    for (size_t at = CHECKED, some; at < size && !fg_interrupted(); at += some) {
        some = smaller(size - at, FG_WATCH_COST);
        crc = fg_crc32(crc, (const char *)buffer + at, some);
    }
    const int rc = fg_end(&watch);
    return rc || crc == header->crc ? rc : FASTGATE_ERROR_FORMAT;
}

int fg_open_saved(fg_saved *header, fg_saved_kind kind, const void *buffer, size_t size)
{
    if (size < sizeof *header || (uintptr_t)buffer % FG_LINE)
        return FASTGATE_ERROR_FORMAT;
    memcpy(header, buffer, sizeof *header);
    if (memcmp(header->magic, magic, sizeof magic) || header->size != size)
        return FASTGATE_ERROR_FORMAT;
    const int rc = check_crc(header, buffer, size);
    if (rc)
        return rc;
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

/* That of errno. */
static int error_code(void)
{
    return errno == ENOMEM ? FASTGATE_ERROR_MEMORY : FASTGATE_ERROR_FILE;
}

int fg_open_file(fg_file *file, const char *path)
{
    *file = (fg_file){NULL, 0};
    if (os_map(path, &file->data, &file->size))
        return error_code();
    if (file->size >= sizeof(fg_saved))
        return FASTGATE_OK;
    fg_close_file(file);
    return FASTGATE_ERROR_FORMAT;
}

void fg_close_file(fg_file *file)
{
    if (file->size)
        os_unmap(file->data, file->size);
    file->size = 0;
}

static int write_file(const char *path, const void *data, size_t size)
{
    static atomic_uint writers;
    if (os_check_target(path)) /* /dev/null stays what it is */
        return error_code();
    size_t folder = strlen(path);
    char *beside = malloc(folder + 64);
    if (!beside)
        return FASTGATE_ERROR_MEMORY;
    memcpy(beside, path, folder);
    while (folder && !strchr(OS_SEPARATORS, path[folder - 1]))
        folder--;
    FILE *stream;
    do /* a new one: not what a link leads to, nor what another container's process of this number writes; and a name
          of its own, as the name of the file may leave no room for more */
        snprintf(beside + folder, 64, ".fastgate-%ld-%u.tmp", os_process(), atomic_fetch_add(&writers, 1));
    while (!(stream = os_create(beside)) && errno == EEXIST);
    int failed = !stream;
    if (stream) {
        setvbuf(stream, NULL, _IONBF, 0); /* all at once */
        failed = fwrite(data, 1, size, stream) != size;
        failed |= fclose(stream) != 0;
        failed = failed || os_rename(beside, path);
    }
    if (failed && stream) {
        const int error = errno;
        os_remove(beside);
        errno = error;
    }
    free(beside);
    return failed ? error_code() : FASTGATE_OK;
}

int fg_write_file(const char *path, void *data, size_t size)
{
    const int rc = data ? write_file(path, data, size) : FASTGATE_ERROR_MEMORY;
    free(data);
    return rc;
}
