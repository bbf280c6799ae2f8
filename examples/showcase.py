"""Twenty places in small programs, with the checks that a good completion passes.

`¦` is the cursor; what stands below `# checks` is not shown to the model.
`python benchmarks/showcase.py` completes each and runs the result in the sandbox.
"""

PROGRAMS = """\
def is_even(number):
    return ¦

# checks
assert is_even(4) and is_even(0) and not is_even(7)
# ----
def total(values):
    total = ¦
    return total

# checks
assert total([1, 2, 3]) == 6
# ----
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        ¦

    def pop(self):
        return self.items.pop()

# checks
stack = Stack()
stack.push(3)
stack.push(5)
assert stack.pop() == 5 and stack.pop() == 3
# ----
def mean(values):
    \"\"\"The arithmetic mean of a list of numbers.\"\"\"
    return ¦

# checks
assert mean([1, 2, 6]) == 3
# ----
def count_vowels(text):
    count = 0
    for letter in text.lower():
        if ¦
            count += 1
    return count

# checks
assert count_vowels("Education") == 5
# ----
def factorial(n):
    if n == 0:
        return 1
    return ¦

# checks
assert factorial(5) == 120
# ----
def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        ¦
    return a

# checks
assert [fibonacci(n) for n in range(7)] == [0, 1, 1, 2, 3, 5, 8]
# ----
def reverse(text):
    \"\"\"The characters of a text from the last to the first.\"\"\"
    return ¦

# checks
assert reverse("abc") == "cba"
# ----
def is_palindrome(word):
    word = word.lower()
    return word == ¦

# checks
assert is_palindrome("Level") and not is_palindrome("Levels")
# ----
import json


def read_settings(path):
    with open(path) as file:
        return ¦

# checks
import tempfile
with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    file.write('{"a": 1}')
    file.flush()
    assert read_settings(file.name) == {"a": 1}
# ----
class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = ¦

# checks
assert (Point(2, 3).x, Point(2, 3).y) == (2, 3)
# ----
class Rectangle:
    def __init__(self, width, height):
        self.width = width
        self.height = height

    def area(self):
        return ¦

    def perimeter(self):
        return 2 * (self.width + self.height)

# checks
assert Rectangle(2, 5).area() == 10
# ----
def largest(numbers):
    result = numbers[0]
    for number in numbers:
        if number > result:
            ¦
    return result

# checks
assert largest([3, 9, 2]) == 9
# ----
def word_counts(text):
    counts = {}
    for word in text.split():
        counts[word] = ¦
    return counts

# checks
assert word_counts("a b a") == {"a": 2, "b": 1}
# ----
def celsius_to_fahrenheit(celsius):
    return ¦


def fahrenheit_to_celsius(fahrenheit):
    return (fahrenheit - 32) * 5 / 9

# checks
assert abs(celsius_to_fahrenheit(100) - 212) < 1e-9
# ----
def squares(n):
    \"\"\"The squares of 0 to n - 1, as a list.\"\"\"
    return [¦]

# checks
assert squares(4) == [0, 1, 4, 9]
# ----
import math


def distance(x1, y1, x2, y2):
    \"\"\"The Euclidean distance of two points.\"\"\"
    return ¦

# checks
assert distance(0, 0, 3, 4) == 5
# ----
class Account:
    def __init__(self, balance=0):
        self.balance = balance

    def deposit(self, amount):
        self.balance += amount

    def withdraw(self, amount):
        ¦

# checks
account = Account(10)
account.withdraw(4)
assert account.balance == 6
# ----
def unique(items):
    seen = set()
    result = []
    for item in items:
        if item not in seen:
            seen.add(item)
            ¦
    return result

# checks
assert unique([3, 1, 3, 2, 1]) == [3, 1, 2]
# ----
def clamp(value, low, high):
    \"\"\"`value`, but not below `low` and not above `high`.\"\"\"
    return max(¦)

# checks
assert (clamp(5, 0, 3), clamp(-1, 0, 3), clamp(2, 0, 3)) == (3, 0, 2)
"""


def prompts():
    """`(prefix, suffix, checks)` of each program."""
    for program in PROGRAMS.split("# ----\n"):
        shown, checks = program.split("# checks\n")
        prefix, suffix = shown.rstrip("\n").split("¦")
        yield prefix, suffix + "\n", checks
