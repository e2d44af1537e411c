/*
 * A gate and an LSTM stream in C++17, with handles that free themselves, compared with plain double arithmetic.
 *
 *     cmake -B build -DCMAKE_PREFIX_PATH=PREFIX && cmake --build build && build/example
 *
 * It prints outputs and the largest error.  The exit status is 0 if the error is as small as float32 allows.
 */
#include <fastgate.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

/* ---- handles and exceptions: all that C++ needs in addition to the header ------------------ */

struct deleter {
    void operator()(fastgate_gate *gate) const noexcept { fastgate_gate_free(gate); }
    void operator()(fastgate_lstm *lstm) const noexcept { fastgate_lstm_free(lstm); }
    void operator()(fastgate_stream *stream) const noexcept { fastgate_stream_free(stream); }
};
template <class T> using handle = std::unique_ptr<T, deleter>;

/* A handle of the object that create(pointer, arguments...) makes */
template <class T, class... Parameters, class... Arguments>
handle<T> make(int (*create)(T **, Parameters...), Arguments... arguments)
{
    T *made = nullptr;
    if (const int code = create(&made, arguments...))
        throw std::runtime_error(fastgate_strerror(code));
    return handle<T>(made);
}

/* ---- numbers in place of trained weights and of a sensor ------------------------------------ */

using floats = std::vector<float>;
using doubles = std::vector<double>;
constexpr std::size_t inputs = 3, hidden = 4;

floats trained(std::size_t count, int seed)
{
    floats numbers(count);
    for (std::size_t i = 0; i < count; i++)
        numbers[i] = static_cast<float>(std::sin(seed + 1.7 * static_cast<double>(i)));
    return numbers;
}

floats measured(int t)
{
    floats x(inputs);
    for (std::size_t k = 0; k < inputs; k++)
        x[k] = static_cast<float>(std::cos(0.3 * t + static_cast<double>(k)));
    return x;
}

/* ---- the same computations in double --------------------------------------------------------- */

double sigma(double z) { return 1 / (1 + std::exp(-z)); }

/* z += W x, W (z.size(), x.size()), row-major */
template <class Vector> void add_product(doubles &z, const floats &weight, const Vector &x)
{
    for (std::size_t i = 0; i < z.size(); i++)
        for (std::size_t k = 0; k < x.size(); k++)
            z[i] += static_cast<double>(weight[i * x.size() + k]) * x[k];
}

double report(const char *name, const floats &y, const doubles &expected)
{
    double error = 0;
    std::printf("%s  y =", name);
    for (std::size_t i = 0; i < y.size(); i++) {
        std::printf(" %.6f", y[i]);
        error = std::max(error, std::abs(y[i] - expected[i]));
    }
    std::printf(", largest error %.1e\n", error);
    return error;
}

/* ---- a gate: y = sigma(W x + bias) ----------------------------------------------------------- */

double gate()
{
    const floats weight = trained(hidden * inputs, 1), bias = trained(hidden, 2), x = measured(0);

    /* This packs a copy of the weights.  inputs and 1 are the strides of rows and columns, and the last 1 is the number
     * of threads. */
    const auto gate = make(fastgate_gate_create, FASTGATE_FLOAT32, hidden, inputs, weight.data(),
                           inputs, 1, bias.data(), 1);
    const fastgate_part part = {x.data(), x.size(), 0};
    floats y(hidden);
    if (const int code = fastgate_gate_run(gate.get(), 1, &part, 1, y.data(), 0))
        throw std::runtime_error(fastgate_strerror(code));

    doubles expected(bias.begin(), bias.end());
    add_product(expected, weight, x);
    std::transform(expected.begin(), expected.end(), expected.begin(), sigma);
    return report("gate:", y, expected);
}

/* ---- an LSTM, step by step ------------------------------------------------------------------- */

double stream()
{
    const floats weight_ih = trained(4 * hidden * inputs, 3), weight_hh = trained(4 * hidden * hidden, 4);
    const floats bias = trained(4 * hidden, 5);

    fastgate_lstm_options options = {}; /* a member that is 0 takes its default */
    options.storage = FASTGATE_FLOAT32;
    options.input_size = inputs;
    options.hidden_size = hidden;
    options.layers = 1;
    options.directions = 1;
    fastgate_lstm_weights weights = {};
    weights.weight_ih = weight_ih.data();
    weights.weight_hh = weight_hh.data();
    weights.bias = bias.data();
    const auto lstm = make(fastgate_lstm_create, &options, &weights);
    const auto stream = make(fastgate_stream_create, lstm.get(), 1); /* freed before the LSTM, as it must be */

    floats y(hidden);
    doubles h(hidden), c(hidden);
    for (int t = 0; t < 10; t++) {
        const floats x = measured(t);
        fastgate_stream_step(stream.get(), x.data(), inputs, y.data(), hidden); /* cannot fail */

        doubles z(bias.begin(), bias.end()); /* of the gates i, f, g, o */
        add_product(z, weight_ih, x);
        add_product(z, weight_hh, h);
        for (std::size_t u = 0; u < hidden; u++) {
            c[u] = sigma(z[hidden + u]) * c[u] + sigma(z[u]) * std::tanh(z[2 * hidden + u]);
            h[u] = sigma(z[3 * hidden + u]) * std::tanh(c[u]);
        }
    }
    return report("LSTM:", y, h);
}

int main()
{
    try {
        std::printf("fastgate %s, kernels for %s\n", FASTGATE_VERSION, fastgate_isa());
        const double gate_error = gate(), stream_error = stream();
        return !(gate_error < 1e-6 && stream_error < 1e-6);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "fastgate: %s\n", error.what());
        return 1;
    }
}
