"""The order of a small repository in each of eight languages, worked out by hand.

`EDGES` and `ORDER` were written from the rules of each language and of docs/data.md, with
the reasons beside them, not from the program's output. The C++, Java and Rust sources
compile as they stand (but for Rust's `serde`, which stands for any other crate).

How an order is found by hand: of the files whose imports are all placed, take the one
fewest steps from a placed one, at the start and on ties the first by name; a test follows
its subject; files that no edge touches come last, by name.
"""

import pathlib

import pytest

from codegemma_keras.data.document import Report
from codegemma_keras.data.order import imports, order
from codegemma_keras.data.read import sources

REPOS = pathlib.Path(__file__).parent / "golden" / "repos"

EDGES = {
    "cpp": """
        src/cart.c -> src/cart.h                        beside it
        src/cart.h -> include/shop/money.hpp            <shop/money.hpp>, by suffix
        src/main.cpp -> src/cart.h
        src/main.cpp -> include/shop/money.hpp          by ../
        src/money.cpp -> include/shop/money.hpp         "shop/money.hpp", by suffix
        tests/test_money.cpp -> include/shop/money.hpp
        """,  # cart.c's <string.h> is the system's, not tools/string.h; so is <cmath>.
    "csharp": """
        Shop.Tests/CartTests.cs -> Shop/Cart.cs         Shop.Carts is there only
        Shop.Tests/MoneyTests.cs -> Shop/Money.cs       using Shop
        Shop/Cart.cs -> Shop/Money.cs                   using static
        Shop/Cart.cs -> Shop/Tax/Tax.cs                 of Shop.Taxes it mentions Tax
        Shop/Tax/Tax.cs -> Shop/Money.cs
        """,  # Rate.cs is in Shop.Taxes, too, but nobody mentions Rate.
    "go": """
        main.go -> money/format.go                      it mentions Format, not Round
        main.go -> tax/tax.go
        tax/tax.go -> money/money.go                    it mentions Round, not Format
        """,  # github.com/other/report is another module's, encoding/json Go's own.
    "java": """
        src/main/java/org/shop/cart/Cart.java -> src/main/java/org/shop/Money.java
        src/main/java/org/shop/cart/Cart.java -> src/main/java/org/shop/tax/Tax.java
        src/main/java/org/shop/tax/Tax.java -> src/main/java/org/shop/Money.java
        src/test/java/org/shop/MoneyTest.java -> src/main/java/org/shop/cart/Cart.java
        """,  # org.shop.tax.* could mean Rates, which Cart does not mention.
    "javascript": """
        src/app.jsx -> src/cart/index.js                there is no src/cart.js
        src/app.jsx -> src/money.js                     @/money
        src/cart/add.js -> src/cart/cart.js             ./cart: the file beside it
        src/cart/cart.js -> src/money.js
        src/cart/cart.js -> src/tax.js
        src/cart/index.js -> src/cart/add.js
        src/cart/index.js -> src/cart/cart.js
        src/tax.js -> src/money.js
        test/money.test.js -> src/money.js
        """,  # react is installed, not here.
    "kotlin": """
        src/main/kotlin/app/Main.kt -> src/main/kotlin/app/model/User.kt
        src/main/kotlin/app/Main.kt -> src/main/kotlin/app/util/Strings.kt
        src/main/kotlin/app/util/Strings.kt -> src/main/kotlin/app/model/User.kt
        src/test/kotlin/app/util/StringsTest.kt -> src/main/kotlin/app/model/User.kt
        """,  # app.util is StringsTest's package, too; `shout` is declared in Strings.
    "rust": """
        src/cart/item.rs -> src/money.rs                super::super is the crate
        src/cart/mod.rs -> src/cart/item.rs             mod item; self::item
        src/cart/mod.rs -> src/money.rs
        src/cli.rs -> src/money.rs                      shop:: is this package's library
        src/lib.rs -> src/cart/mod.rs
        src/lib.rs -> src/money.rs
        src/main.rs -> src/cart/mod.rs                  shop::cart
        src/main.rs -> src/cli.rs                       mod cli;
        """,  # serde is another crate.
    "typescript": """
        src/api.ts -> src/store.ts
        src/api.ts -> src/types.ts
        src/store.spec.ts -> src/api.ts
        src/store.spec.ts -> src/store.ts
        src/store.ts -> src/types.ts
        src/view.tsx -> src/api.ts                      ./api.js is what ./api.ts becomes
        src/view.tsx -> src/store.ts
        """,  # require("fs") is Node's.
}

# Edges that cannot be obeyed. Java: Money with its test needs Cart, Cart needs Money. An
# import of a test that is used as often counts half. TypeScript: the same, store and api.
REMOVED = {
    "java": [
        "src/test/java/org/shop/MoneyTest.java -> src/main/java/org/shop/cart/Cart.java"
    ],
    "typescript": ["src/store.spec.ts -> src/api.ts"],
}

ORDER = {
    "cpp": """
        include/shop/money.hpp      the only file that needs none
        tests/test_money.cpp        its test: it includes money.hpp, not money.cpp
        src/cart.h                  1 step, as money.cpp; first by name
        src/cart.c                  1 step, as main.cpp and money.cpp
        src/main.cpp
        src/money.cpp
        tools/string.h              untouched
        """,
    "csharp": """
        Shop/Money.cs               the only one that needs none
        Shop.Tests/MoneyTests.cs
        Shop/Tax/Tax.cs             Cart still waits for it
        Shop/Cart.cs
        Shop.Tests/CartTests.cs
        Shop/Tax/Rate.cs            untouched
        """,
    "go": """
        money/format.go             needs none, as money/money.go; first by name
        money/money.go              3 steps: format - main - tax - money; alone is ready
        money/money_test.go
        tax/tax.go
        main.go
        json/json.go                untouched
        report/report.go
        """,
    "java": """
        src/main/java/org/shop/Money.java
        src/test/java/org/shop/MoneyTest.java
        src/main/java/org/shop/tax/Tax.java
        src/main/java/org/shop/cart/Cart.java
        src/test/java/org/shop/cart/CartTest.java
        src/main/java/org/shop/tax/Rates.java
        """,
    "javascript": """
        src/money.js                the only one that needs none
        test/money.test.js
        src/tax.js                  cart.js waits for it
        src/cart/cart.js
        src/cart/add.js             index.js waits for it
        src/cart/index.js
        src/app.jsx
        package.json                untouched
        scripts/alone.js
        """,
    "kotlin": """
        src/main/kotlin/app/model/User.kt
        src/main/kotlin/app/util/Strings.kt
        src/test/kotlin/app/util/StringsTest.kt
        src/main/kotlin/app/Main.kt
        src/main/kotlin/app/model/Unused.kt
        """,
    "rust": """
        src/money.rs                the only one that needs none
        src/cart/item.rs            1 step, as cli.rs
        src/cart/mod.rs             1 step, as cli.rs
        src/cli.rs                  1 step, as lib.rs
        src/lib.rs                  1 step, as main.rs
        src/main.rs
        Cargo.toml                  untouched
        """,
    "typescript": """
        src/types.ts
        src/store.ts                api and view wait for it
        src/store.spec.ts
        src/api.ts
        src/view.tsx
        src/globals.d.ts
        """,
}


def rows(text):
    """The rows of a table, without the reasons beside them."""
    return [line.split("  ")[0] for line in map(str.strip, text.split("\n")) if line]


@pytest.mark.parametrize("language", sorted(ORDER))
def test_order_worked_out_by_hand(language):
    documents = sources.read_folder(REPOS / language, Report())
    facts = [imports.read_facts(d.text, d.path, d.language) for d in documents]
    found = order.order_files(reversed(facts))
    edges = [f"{e.importer} -> {e.imported}" for e in (*found.kept, *found.removed)]
    removed = [f"{e.importer} -> {e.imported}" for e in found.removed]
    assert sorted(edges) == sorted(rows(EDGES[language]))
    assert removed == REMOVED.get(language, [])
    assert list(found.paths) == rows(ORDER[language])
