"""Convolutional denoisers, non-local filters and the neural tangent kernel: the code behind the book.

Start with :func:`ntkbook.denoise.denoise_ntk` for a picture of your own, or with :mod:`ntkbook.kernels` and
:mod:`ntkbook.filters` for the mathematics. Nothing is imported here, so each module costs only what it needs.
"""
