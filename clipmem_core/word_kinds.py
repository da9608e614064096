"""Words of captions that are replaced by, or compared with, another one of their kind."""

COLOUR_WORDS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "brown"),
    *("black", "white", "grey", "gray", "gold", "golden", "silver", "beige"),
)
NUMBER_WORDS = (
    *("one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
