"""Twenty-five problems as rows of MBPP; `code` is the right solution in Python.

The solutions in the other languages lie beside this file: `### name`, the function's body,
and `### wrong: old => new`, an edit that makes it wrong in the way people do.
"""

ROWS = [
    # text, code, tests
    (
        "Give the sum of the numbers in a list.",
        "def add_up(numbers):\n    return sum(numbers)",
        ["add_up([1, 2, 3]) == 6", "add_up([]) == 0", "add_up([-5, 5, 7]) == 7"],
    ),
    (
        "Count the vowels (a, e, i, o, u, of any case) in a text.",
        "def count_vowels(text):\n    return sum(c in 'aeiou' for c in text.lower())",
        ["count_vowels('Audi') == 3", "count_vowels('xyz') == 0"],
    ),
    (
        "Give the words of a text, between single spaces, in reverse order.",
        "def reverse_words(text):\n    return ' '.join(text.split(' ')[::-1])",
        ["reverse_words('a bc d') == 'd bc a'", "reverse_words('one') == 'one'"],
    ),
    (
        "Whether a text reads the same backwards.",
        "def is_palindrome(text):\n    return text == text[::-1]",
        ["is_palindrome('abcba')", "not is_palindrome('abca')", "is_palindrome('')"],
    ),
    (
        "Give the largest number so far at each place of a list.",
        "def running_max(numbers):\n"
        "    out = []\n"
        "    for n in numbers:\n"
        "        out.append(max(n, out[-1]) if out else n)\n"
        "    return out",
        ["running_max([-3, -4, 1, 0]) == [-3, -3, 1, 1]", "running_max([]) == []"],
    ),
    (
        "Give the mean of the numbers in a list.",
        "def mean(numbers):\n    return sum(numbers) / len(numbers)",
        ["mean([1.0, 2.0]) == 1.5", "abs(mean([0.1, 0.2, 0.3]) - 0.2) < 1e-6"],
    ),
    (
        "Give the product of the numbers from 1 to n.",
        "def factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)",
        ["factorial(20) == 2432902008176640000", "factorial(0) == 1"],
    ),
    (
        "Count each letter of a text.",
        "def letter_counts(text):\n    return {c: text.count(c) for c in text}",
        [
            "letter_counts('abca') == {'a': 2, 'b': 1, 'c': 1}",
            "letter_counts('') == {}",
        ],
    ),
    (
        "Give the set of the numbers in a list.",
        "def distinct(numbers):\n    return set(numbers)",
        ["distinct([3, 1, 3, 2]) == {1, 2, 3}", "distinct([7]) == {7}"],
    ),
    (
        "Put the lists in a list together.",
        "def flatten(lists):\n    return [n for part in lists for n in part]",
        ["flatten([[1], [], [2, 3]]) == [1, 2, 3]", "flatten([]) == []"],
    ),
    (
        "Turn the rows of a matrix into columns.",
        "def transpose(rows):\n    return [list(column) for column in zip(*rows)]",
        [
            "transpose([[1, 2, 3], [4, 5, 6]]) == [[1, 4], [2, 5], [3, 6]]",
            "transpose([[1]]) == [[1]]",
        ],
    ),
    (
        "Give the greatest common divisor of two numbers.",
        "def common_divisor(a, b):\n    return common_divisor(b, a % b) if b else a",
        ["common_divisor(12, 18) == 6", "common_divisor(7, 0) == 7"],
    ),
    (
        "Whether a number is prime.",
        "def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, n))",
        ["is_prime(2)", "is_prime(97)", "is_prime(1) == False", "not is_prime(49)"],
    ),
    (
        "Give the n-th Fibonacci number; the first two are 0 and 1.",
        "def fibonacci(n):\n"
        "    a, b = 0, 1\n"
        "    for _ in range(n):\n"
        "        a, b = b, a + b\n"
        "    return a",
        ["fibonacci(0) == 0", "fibonacci(7) == 13", "fibonacci(60) == 1548008755920"],
    ),
    (
        "Write a number that is not negative in binary.",
        "def to_binary(n):\n    return bin(n)[2:]",
        ["to_binary(0) == '0'", "to_binary(10) == '1010'"],
    ),
    (
        "Give what two sets have in common, sorted.",
        "def in_common(first, second):\n    return sorted(first & second)",
        ["in_common({3, 1, 2}, {2, 3, 9}) == [2, 3]", "in_common({1}, {2}) == []"],
    ),
    (
        "Add up the prices of items; those that have no price cost nothing.",
        "def total_price(prices, items):\n"
        "    return sum(prices.get(item, 0.0) for item in items)",
        [
            "total_price({'a': 1.5, 'b': 2.25}, ['a', 'b', 'a', 'x']) == 5.25",
            "total_price({'a': 1.5}, []) == 0.0",
        ],
    ),
    (
        "Exchange the keys and values of a dictionary.",
        "def invert(names):\n    return {value: key for key, value in names.items()}",
        ["invert({'a': 1, 'b': 2}) == {1: 'a', 2: 'b'}", "invert({}) == {}"],
    ),
    (
        "Shift small letters by k places in the alphabet; after z comes a.",
        "def shift(text, k):\n"
        "    return ''.join(chr((ord(c) - 97 + k) % 26 + 97) for c in text)",
        ["shift('xyz', 3) == 'abc'", "shift('hello', 0) == 'hello'"],
    ),
    (
        "Give the longest text of a list, the first of several.",
        "def longest(texts):\n    return max(texts, key=len)",
        ["longest(['a', 'bcd', 'efg']) == 'bcd'", "longest(['']) == ''"],
    ),
    (
        "Give the second largest of different numbers.",
        "def second_largest(numbers):\n    return sorted(numbers)[-2]",
        ["second_largest([4, 9, 1, 7]) == 7", "second_largest([-1, -2]) == -2"],
    ),
    (
        "Give the sum of the products of two lists' numbers.",
        "def dot(first, second):\n    return sum(a * b for a, b in zip(first, second))",
        ["dot([1.0, 2.0], [3.0, 0.5]) == 4.0", "dot([], []) == 0.0"],
    ),
    (
        "Put a text between double quotes, with a line end after it.",
        "def quoted(text):\n    return '\"' + text + '\"\\n'",
        [r"quoted('a\\b') == '" + '"a\\\\b"\\n' + "'", "quoted('ä$1') == '\"ä$1\"\\n'"],
    ),
    (
        "Whether all numbers of a list are greater than 0.",
        "def all_positive(numbers):\n    return all(n > 0 for n in numbers)",
        ["all_positive([1, 2])", "all_positive([])", "not all_positive([1, 0])"],
    ),
    (
        "Count the steps from n to 1: half of an even number, 3 n + 1 of an odd one.",
        "def steps_to_one(n):\n"
        "    count = 0\n"
        "    while n != 1:\n"
        "        n = n // 2 if n % 2 == 0 else 3 * n + 1\n"
        "        count += 1\n"
        "    return count",
        ["steps_to_one(1) == 0", "steps_to_one(6) == 8", "steps_to_one(27) == 111"],
    ),
]
