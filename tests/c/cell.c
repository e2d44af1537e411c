/*
 * The LSTM's cell against long double: c' is within 6 ULP of |f c| + |i g|, h' is within 6 ULP of o tanh(c'), and the
 * root mean square of both errors is below 1 ULP.  Cells are random, and in part made of numbers that are 0, tiny,
 * ordinary, large or huge.  Where f is subnormal its error may be one more smallest number, times c.
 *
 *     cell [rounds]      30 unless it is given; a round has 32,768 cells
 *
 * Prints the largest and the root mean square errors for each instruction set and type.
 */
#include "test.h"

enum { UNITS = 64, BATCH = 512, CELLS = UNITS * BATCH };

static const double special[] = {0, 1e-45, 1e-30, 1e-10, 1e-3, 0.1, 0.34, 0.35, 0.7, 1, 3,
                                 8.6, 17, 40, 80, 88, 104, 200};
enum { SPECIAL = sizeof special / sizeof *special };

typedef struct {
    long double worst, squares;
    uint64_t count;
} findings;

static void note(findings *f, double got, long double want, long double size, const char *what, const double *z,
                 double c)
{
    const int digits = is_double() ? 53 : 24, lowest = is_double() ? -1022 : -126;
    const long double least = is_double() ? 0x1p-960L : 0x1p-100L; /* smaller numbers become 0 */
    int exponent = ilogbl(size);
    exponent = size == 0 || exponent < lowest ? lowest : exponent;
    const long double ulp = ldexpl(1, exponent + 1 - digits);
    if (fabsl(want) < least * 1.001L && got == 0)
        return;
    const long double slack = fabsl(c) * (is_double() ? 0x1p-1074L : 0x1p-149L), off = fabsl(got - want);
    const long double error = off > slack ? (off - slack) / ulp : 0;
    CHECK(error <= 6, "%s, %s: %s: %a, not %a, %.2f ULP: %a %a %a %a, c %a", fastgate_isa(), storage_names[storage],
          what, got, (double)want, (double)error, z[0], z[1], z[2], z[3], c);
    f->worst = error > f->worst ? error : f->worst;
    f->squares += error * error;
    f->count++;
}

int main(int argc, char **argv)
{
    const int rounds = argc > 1 && atoi(argv[1]) ? atoi(argv[1]) : 30;
    for (size_t isa = 0; fastgate_isa_name(isa); isa++)
        for (int d = 0; d < 2 && !fastgate_select_isa(fastgate_isa_name(isa)); d++) {
            storage = d ? FASTGATE_FLOAT64 : FASTGATE_FLOAT32;
            /* with the identity as weights, each gate's sum is an element of x */
            const fastgate_lstm_options o = {storage, 4 * UNITS, UNITS, .layers = 1, .directions = 1};
            void *weight = numbers(16 * UNITS * UNITS), *zeros = numbers(4 * UNITS * UNITS);
            void *x = numbers(4 * CELLS), *c = numbers(CELLS), *h_out = numbers(CELLS), *c_out = numbers(CELLS);
            for (ptrdiff_t i = 0; i < 16 * UNITS * UNITS; i++)
                put(weight, i, i / (4 * UNITS) == i % (4 * UNITS));
            fill_with(zeros, 4 * UNITS * UNITS, 0);
            fastgate_lstm *lstm;
            const fastgate_lstm_weights w = {weight, zeros, NULL, NULL, NULL};
            CHECK(!fastgate_lstm_create(&lstm, &o, &w), "create");
            findings of_c = {0}, of_h = {0};
            uint64_t seed = 1;
            for (int round = 0; round < rounds; round++) {
                for (ptrdiff_t i = 0; i < 5 * CELLS; i++) {
                    const double size[] = {1, 4, 20, 0.01, 100}, sign = next(&seed) & 1 ? -1 : 1;
                    const double v = round % 3 == 2 ? sign * special[below(&seed, SPECIAL)]
                                                    : number(ORDINARY, &seed) * size[below(&seed, 5)];
                    i < 4 * CELLS ? put(x, i, v) : put(c, i - 4 * CELLS, round % 5 == 4 ? v * 1e36 : v);
                }
                CHECK(!fastgate_lstm_step(lstm, BATCH, x, 4 * UNITS, zeros, c, h_out, c_out, NULL), "step");
                for (ptrdiff_t i = 0; i < CELLS; i++) {
                    const ptrdiff_t at_row = i / UNITS * 4 * UNITS, u = i % UNITS;
                    const double z[] = {get(x, at_row + u), get(x, at_row + UNITS + u), get(x, at_row + 2 * UNITS + u),
                                        get(x, at_row + 3 * UNITS + u)};
                    const double before = get(c, i), after = get(c_out, i);
                    const long double kept = sigma(z[1]) * before, added = sigma(z[0]) * tanhl(z[2]);
                    const long double h = sigma(z[3]) * tanhl(after);
                    note(&of_c, after, kept + added, fabsl(kept) + fabsl(added), "c", z, before);
                    note(&of_h, get(h_out, i), h, fabsl(h), "h", z, before);
                }
            }
            const double rms_c = (double)sqrtl(of_c.squares / of_c.count);
            const double rms_h = (double)sqrtl(of_h.squares / of_h.count);
            printf("%s %s: c' %.2f ULP, rms %.3f; h' %.2f, rms %.3f\n", fastgate_isa(), storage_names[storage],
                   (double)of_c.worst, rms_c, (double)of_h.worst, rms_h);
            CHECK(rms_c < 1 && rms_h < 1, "root mean square");
            fastgate_lstm_free(lstm);
            free(weight), free(zeros), free(x), free(c), free(h_out), free(c_out);
        }
    return 0;
}
