# SPDX-License-Identifier: Apache-2.0
"""Text of our own: what the small tokenizers learn from, and the prompts of the golden models."""

STORY = """Once upon a time there was a small lighthouse on a green hill by the sea. In the lighthouse
lived an old keeper named Ada and her grey cat. Every evening, when the sun went down, Ada climbed the
stairs and lit the big lamp. "The ships are far away," she said, "but they can see us from here."
One night the wind was very strong, and the lamp would not burn. Ada looked at the cat, and the cat
looked at Ada. "What shall we do?" she asked. The cat jumped on the table and pushed an old box to the
floor. There were candles in the box, red and white and blue! Ada laughed. She put thirty candles in the
window and lit them one after the other. Far out on the water a captain saw the little lights. "Look,"
he said to his daughter, "somebody is thinking of us." They turned the ship to the left, away from the
rocks, and came home to the harbour before the morning. The next day they walked up the hill with bread,
honey and a new lamp. They sat together in the warm kitchen, and the cat slept on the captain's hat.
"""

FACTS = """A server answers many people at the same time, so it puts their questions into one batch.
Each rank holds one part of the weights; the parts are added together after every layer.
It isn't hard: you'll count the tokens, we'll count the milliseconds, and they're printed at the end.
for (int i = 0; i < 10; i++) { total += values[i] * 2; }
The year 2024 had 366 days, 8784 hours, and 31622400 seconds; 3.14159 is close to pi.
Das Mädchen lief über die Brücke. L'été, le café est fermé. El niño pequeño comió una manzana.
"""

# Prompts of every model: a short one, one that fills more than a 32-token block, one token.
PROMPTS = [
    "Once upon a time",
    "The keeper looked at the sea. \"What shall we do?\" she asked. The captain's daughter"
    " laughed and put the lamp into the window.",
    "x",
]


def long_text():
    """Enough text for prompts of several hundred tokens."""
    return STORY.replace("\n", " ") + FACTS


def training_lines():
    return (STORY + FACTS).split("\n")
