/* The form of a saved gate or LSTM, and files.  Private to csrc. */
#ifndef FASTGATE_SAVED_H
#define FASTGATE_SAVED_H

#include "kernels.h"

#include <stdint.h>

#pragma GCC visibility push(hidden)

/*
 * What is saved is a header and sections, each at the next multiple of FG_LINE bytes, zeros between: so a
 * gate runs on a mapped file where it lies.  A gate has one section, its packed form.  An LSTM has first
 * one byte for each layer and direction, 1 where there are peepholes, else 0; then, for each layer and
 * direction, the packed form of its gates, that of its projection, if there are any, and its peepholes,
 * as in fg_cell, if it has them.  Numbers are in the byte order of the machine that saved them.
 *
 * All sizes follow from the header, and whatever weights there are is safe to compute with: a file with
 * hostile content that passes the checks is a gate or LSTM like any other.
 */
#define FG_FORMAT 1 /* goes up with every change of this, of the packed forms and of the order of summation */

typedef enum { FG_SAVED_GATE = 1, FG_SAVED_LSTM = 2 } fg_saved_kind;
enum { FG_SAVED_BACKWARDS = 1, FG_SAVED_INPUT_FORGET = 2 };

typedef struct {
    char magic[8]; /* "fastgate" */
    uint32_t crc;  /* CRC-32 of all that follows */
    uint32_t format;
    uint64_t size; /* bytes, of all */
    uint32_t kind, storage, threads;
    uint32_t directions, flags, zero; /* from here on, what a gate has not is 0 */
    uint64_t input_size;
    uint64_t output_size; /* of an LSTM: hidden_size */
    uint64_t projection_size, layers;
    double clip, gate_clip;
    uint64_t zeros[4];
} fg_saved;

_Static_assert(sizeof(fg_saved) == 2 * FG_LINE, "as written in files");

/* The offset of the section of so many bytes that follows *end bytes, and moves *end behind it, unless it is
 * empty; SIZE_MAX is what does not fit ptrdiff_t, and stays. */
size_t fg_section(size_t *end, size_t bytes);

/* CRC-32 of zlib, PNG and others (IEEE 802.3), of which this is a continuation; 0 to begin with. */
uint32_t fg_crc32(uint32_t crc, const void *data, size_t size);

/* header = that of a buffer of `size` bytes, if it is aligned, unharmed and of this kind; else
 * FASTGATE_ERROR_FORMAT. */
int fg_open_saved(fg_saved *header, fg_saved_kind kind, const void *buffer, size_t size);

/* Whether a header says nothing but what `expected` does; magic, crc and format are as fg_open_saved left them. */
int fg_same_header(const fg_saved *header, const fg_saved *expected);

/* Writes the header, made complete, before the sections in a buffer of header->size bytes. */
void fg_seal(void *buffer, const fg_saved *header);

/* A file in memory: mapped where that is possible. */
typedef struct {
    void *data;
    size_t size; /* 0: there is none */
    void *block; /* which holds data, where it is not mapped */
} fg_file;

int fg_open_file(fg_file *file, const char *path);
void fg_close_file(fg_file *file);

/* Replaces the file, by a new one: who has mapped the old one keeps it. */
int fg_write_file(const char *path, const void *data, size_t size);

#pragma GCC visibility pop

#endif
