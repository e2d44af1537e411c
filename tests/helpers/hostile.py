"""Objects whose conversions run code of the user in the middle of a call."""

import numpy as np


class Hostile:
    """An object that calls `act` whenever it is converted, and then becomes `value`."""

    def __init__(self, value, act):
        self.value, self.act = value, act

    def __array__(self, dtype=None, copy=None):
        self.act()
        return self.value

    def __float__(self):
        self.act()
        return float(self.value)

    def __bool__(self):
        self.act()
        return bool(self.value)

    def __index__(self):
        self.act()
        return int(self.value)


class HostileBuffer:
    """An object that calls `act` whenever it is asked for its buffer, as Python does from 3.12 on."""

    def __init__(self, act):
        self.act = act

    def __buffer__(self, flags):
        self.act()
        return memoryview(np.ones(1, np.float32))
