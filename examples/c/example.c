/*
 * A gate and an LSTM stream in C, compared with plain double arithmetic.
 *
 *     cc example.c $(pkg-config --cflags --libs fastgate) -lm -o example      csrc, installed by CMake
 *     cc example.c $(python -m fastgate --cflags --libs) -o example           an installed wheel
 *     ./example [STEPS]
 *
 * It prints outputs and the largest error.  The exit status is 0 if the error is as small as float32 allows.
 */
#include <fastgate.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { INPUTS = 3, HIDDEN = 4 };

/* In place of trained weights: numbers between -1 and 1. */
static void fill(float *numbers, int count, int seed)
{
    for (int i = 0; i < count; i++)
        numbers[i] = (float)sin(seed + 1.7 * i);
}

/* In place of a sensor: x (INPUTS,) at time t. */
static void measure(float *x, int t)
{
    for (int k = 0; k < INPUTS; k++)
        x[k] = (float)cos(0.3 * t + k);
}

static double sigma(double z)
{
    return 1 / (1 + exp(-z));
}

/* fastgate does not print or abort: a function that can fail returns a code. */
static void check(int code)
{
    if (code) {
        fprintf(stderr, "fastgate: %s\n", fastgate_strerror(code));
        exit(1);
    }
}

/* ---- a gate: y = sigma(W x + bias) ---------------------------------------------------------- */

static double gate(void)
{
    float weight[HIDDEN * INPUTS], bias[HIDDEN], x[INPUTS], y[HIDDEN];
    fill(weight, HIDDEN * INPUTS, 1); /* (HIDDEN, INPUTS), row-major */
    fill(bias, HIDDEN, 2);
    measure(x, 0);

    /* This packs a copy of the weights.  INPUTS and 1 are the strides of rows and columns, and the last 1 is the number
     * of threads. */
    fastgate_gate *gate;
    check(fastgate_gate_create(&gate, FASTGATE_FLOAT32, HIDDEN, INPUTS, weight, INPUTS, 1, bias, 1));

    /* x may consist of several parts, which need not be adjacent; here it is one.  A call allocates nothing. */
    const fastgate_part part = {x, INPUTS, 0};
    check(fastgate_gate_run(gate, 1, &part, 1, y, 0));
    fastgate_gate_free(gate);

    double error = 0;
    for (int i = 0; i < HIDDEN; i++) {
        double z = bias[i];
        for (int k = 0; k < INPUTS; k++)
            z += (double)weight[i * INPUTS + k] * x[k];
        error = fmax(error, fabs(y[i] - sigma(z)));
    }
    printf("gate:  y = %.6f %.6f %.6f %.6f, largest error %.1e\n", y[0], y[1], y[2], y[3], error);
    return error;
}

/* ---- an LSTM, step by step ------------------------------------------------------------------- */

static float weight_ih[4 * HIDDEN * INPUTS], weight_hh[4 * HIDDEN * HIDDEN], bias[4 * HIDDEN];

/* The same step in double.  It replaces h and c (HIDDEN,) by the next ones. */
static void plain_step(const float *x, double *h, double *c)
{
    double z[4 * HIDDEN]; /* HIDDEN for each of the gates i, f, g, o */
    for (int i = 0; i < 4 * HIDDEN; i++) {
        z[i] = bias[i];
        for (int k = 0; k < INPUTS; k++)
            z[i] += (double)weight_ih[i * INPUTS + k] * x[k];
        for (int k = 0; k < HIDDEN; k++)
            z[i] += weight_hh[i * HIDDEN + k] * h[k];
    }
    for (int u = 0; u < HIDDEN; u++) {
        c[u] = sigma(z[HIDDEN + u]) * c[u] + sigma(z[u]) * tanh(z[2 * HIDDEN + u]);
        h[u] = sigma(z[3 * HIDDEN + u]) * tanh(c[u]);
    }
}

static double stream(int steps)
{
    fill(weight_ih, 4 * HIDDEN * INPUTS, 3);
    fill(weight_hh, 4 * HIDDEN * HIDDEN, 4);
    fill(bias, 4 * HIDDEN, 5);

    const fastgate_lstm_options options = {.storage = FASTGATE_FLOAT32,
                                           .input_size = INPUTS,
                                           .hidden_size = HIDDEN,
                                           .layers = 1,
                                           .directions = 1}; /* the other members are 0, their default */
    const fastgate_lstm_weights weights = {.weight_ih = weight_ih, .weight_hh = weight_hh, .bias = bias};
    fastgate_lstm *lstm; /* the weights, which any number of streams and threads may share */
    fastgate_stream *stream; /* a state that begins as zeros, for one thread at a time */
    check(fastgate_lstm_create(&lstm, &options, &weights));
    check(fastgate_stream_create(&stream, lstm, 1));

    float x[INPUTS], y[HIDDEN] = {0};
    double h[HIDDEN] = {0}, c[HIDDEN] = {0}, error = 0;
    for (int t = 0; t < steps; t++) { /* nothing in this loop allocates, and nothing can fail */
        measure(x, t);
        fastgate_stream_step(stream, x, INPUTS, y, HIDDEN);
        plain_step(x, h, c);
        for (int u = 0; u < HIDDEN; u++)
            error = fmax(error, fabs(y[u] - h[u]));
    }
    fastgate_stream_free(stream); /* before the LSTM that it reads */
    fastgate_lstm_free(lstm);
    printf("LSTM:  y = %.6f %.6f %.6f %.6f after %d steps, largest error %.1e\n", y[0], y[1], y[2],
           y[3], steps, error);
    return error;
}

int main(int argc, char **argv)
{
    printf("fastgate %s, kernels for %s\n", FASTGATE_VERSION, fastgate_isa());
    const double gate_error = gate();
    const double stream_error = stream(argc > 1 ? atoi(argv[1]) : 10);
    return !(gate_error < 1e-6 && stream_error < 1e-6);
}
