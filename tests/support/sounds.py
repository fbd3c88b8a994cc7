"""Sounds to find speech in: silence, noise, and vowels as a throat makes them."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
PITCH_HZ = 120
VOWELS = ((730, 1_090, 2_440), (270, 2_290, 3_010), (300, 870, 2_240), (530, 1_840, 2_480))
"""The first three resonances of a, i, u and e, in Hz."""
SYLLABLE_S = 0.18
BANDWIDTH_HZ = 90

Sound = NDArray[np.float64]


def silence(duration_s: float) -> Sound:
    return np.zeros(int(duration_s * RATE))


def noise(duration_s: float, loudness: float = 0.05, seed: int = 0) -> Sound:
    return np.random.default_rng(seed).standard_normal(int(duration_s * RATE)) * loudness


def vowels(duration_s: float) -> Sound:
    """One vowel after another, with a breath between them: pulses at a gliding pitch through the
    resonances of each."""
    times = np.arange(int(duration_s * RATE)) / RATE
    pitch = PITCH_HZ * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * times))
    phase = np.cumsum(pitch) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0)
    syllable = (times // SYLLABLE_S).astype(int)
    voice = np.zeros_like(times)
    for place, resonances in enumerate(VOWELS):
        voice += np.where(syllable % len(VOWELS) == place, _resonating(pulses, resonances), 0)
    loudness = np.sin(np.pi * (times % SYLLABLE_S) / SYLLABLE_S) ** 0.5
    return 0.3 * voice * loudness / np.abs(voice).max()


def _resonating(pulses: Sound, resonances: tuple[int, ...]) -> Sound:
    times = np.arange(RATE // 20) / RATE
    ringing = np.zeros_like(times)
    for place, hertz in enumerate(resonances):
        fading = np.exp(-np.pi * BANDWIDTH_HZ * times) / (1 + place)
        ringing += fading * np.sin(2 * np.pi * hertz * times)
    return np.convolve(pulses, ringing)[: len(pulses)]


def wav(sound: Sound, *, rate: int = RATE, channels: int = 1) -> bytes:
    """A WAV file of a sound at 16 kHz."""
    samples = sound[:: RATE // rate]
    stored = np.repeat(np.clip(samples, -1, 1)[:, None] * 32_767, channels, axis=1)
    return wav_of(stored.astype("<i2").tobytes(), rate=rate, channels=channels)


def wav_of(stored: bytes, *, rate: int = RATE, channels: int = 1, bits: int = 16) -> bytes:
    """A WAV file with these bytes as its samples."""
    frame = channels * bits // 8
    layout = struct.pack("<HHIIHH", 1, channels, rate, rate * frame, frame, bits)
    parts = _part(b"fmt ", layout) + _part(b"data", stored)
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WAVE" + parts


def _part(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
