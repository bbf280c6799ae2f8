"""Which files imports mean, language by language: small repositories, worked out by hand.

Each is one kind of fault that was seen on real repositories; benchmarks/data_edges.py
measures the edges of whole ones.
"""

import json
import textwrap

import pytest

from codegemma_keras.data.languages import language_of
from codegemma_keras.data.order import imports, order


def facts_of(files):
    return [
        imports.read_facts(textwrap.dedent(text), path, language_of(path))
        for path, text in files.items()
    ]


def edges_of(files):
    edges = order.find_edges(facts_of(files))
    return sorted(f"{e.importer} -> {e.imported}" for e in edges)


def test_python_namespace_package_of_several_projects():
    files = {
        "api/pyproject.toml": "[project]\nname = 'api'\n",
        "api/src/otel/context/__init__.py": "",
        "api/src/otel/trace/__init__.py": "from otel.context import get\n",
        "sdk/setup.py": "",
        "sdk/src/otel/sdk/__init__.py": "import trace\nfrom otel.trace import Span\n",
        "sdk/tests/test_sdk.py": "from otel.sdk import x\nfrom otel import trace\n",
    }
    assert edges_of(files) == [
        "api/src/otel/trace/__init__.py -> api/src/otel/context/__init__.py",
        "sdk/src/otel/sdk/__init__.py -> api/src/otel/trace/__init__.py",
        "sdk/tests/test_sdk.py -> api/src/otel/trace/__init__.py",
        "sdk/tests/test_sdk.py -> sdk/src/otel/sdk/__init__.py",
    ]


def test_a_folder_within_a_namespace_package_is_no_root():
    """`import grpc` is the library, not the part of the exporter that has its name."""
    files = {
        "otlp/pyproject.toml": "[project]\nname = 'otlp'\n",
        "otlp/src/otel/otlp/grpc/__init__.py": "import grpc\n",
        "otlp/src/otel/otlp/grpc/use.py": "import grpc\nfrom otel.otlp import grpc\n",
        "otlp/tests/test_it.py": "import grpc\n",
        "other/x.py": "import grpc\nimport loose\n",
        "tools/loose/__init__.py": "",
    }
    assert edges_of(files) == [
        "other/x.py -> tools/loose/__init__.py",
        "otlp/src/otel/otlp/grpc/use.py -> otlp/src/otel/otlp/grpc/__init__.py",
    ]


def test_python_roots_that_a_build_file_names():
    files = {
        "core/pyproject.toml": '[tool.setuptools.package-dir]\n"" = "code"\n',
        "core/code/space/a.py": "x = 1\n",
        "run/main.py": "from space import a\n",
    }
    assert edges_of(files) == ["run/main.py -> core/code/space/a.py"]


def test_an_empty_init_decides_though_it_is_not_trained_on():
    files = {
        "pkg/__init__.py": "",
        "pkg/json.py": "x = 1\n",
        "pkg/use.py": "import json\nimport pkg.json\n",
        "run.py": "import pkg\n",
    }
    facts = facts_of(files)
    kept = order.order_files(facts, only=[p for p in files if files[p]]).kept
    assert [(e.importer, e.imported) for e in kept] == [("pkg/use.py", "pkg/json.py")]
    with pytest.raises(ValueError, match=r"'x\.py' is to be ordered"):
        order.order_files(facts, only=["x.py"])


GO = {
    "go.mod": "module x.org/m\n\nreplace x.org/local => ./third/local\n",
    "third/local/go.mod": "module x.org/local\n",
    "third/local/l.go": "package local\nfunc Do() {}\n",
    "util/u.go": "package util\nfunc Used() {}\nfunc hidden() {}\nfunc init() {}\n",
    "util/v.go": "package util\nvar (\n\tOther = 1\n)\n",
    "util/u_test.go": 'package util_test\nimport "x.org/m/util"\nvar _ = util.Other\n',
    "util/export_test.go": "package util\nvar Exported = 1\n",
    "cmd/main.go": """
        package main
        import ("x.org/m/util"; l "x.org/local"; _ "x.org/m/side"; "y.org/z/util2")
        func main() { util.Used(); l.Do(); x.util.Other() /* util.Other */ }
        """,
    "side/s.go": "package side\nfunc Main() {}\n",
    "errors/e.go": "package errors\nfunc New() {}\n",
    "use/u.go": 'package use\nimport "github.com/y/errors"\nvar E = errors.New()\n',
}


def test_go_selectors_and_the_modules_of_go_mod():
    assert edges_of(GO) == [
        "cmd/main.go -> third/local/l.go",
        "cmd/main.go -> util/u.go",
        "util/u_test.go -> util/v.go",
    ]


def test_go_without_go_mod_goes_by_paths():
    files = {
        "go/cmd/main.go": """
            package main
            import ("x.org/m/util"; a "x.org/m/a/util"; "github.com/y/errors")
            func main() { util.A(); a.B(); errors.New() }
            """,
        "go/util/u.go": "package util\nfunc A() {}\n",
        "go/a/util/u.go": "package util\nfunc B() {}\n",
        "errors/errors.go": "package errors\nfunc New() {}\n",
    }
    assert edges_of(files) == [
        "go/cmd/main.go -> go/a/util/u.go",
        "go/cmd/main.go -> go/util/u.go",
    ]


def test_kotlin_goes_by_package_and_declaration():
    files = {
        "kotlin/jvm.kt": "package other\nclass Jvm\n",
        "Marks.kt": "package m\n@Retention(X)\nannotation class Mark\nclass Open\n",
        "Data.kt": "package m\ndata class Point(val x: Int)\nenum class Color\n",
        "Ext.kt": '@file:JvmName("Exts")\npackage m\nfun <T> List<T>.twice() = 1\n',
        "Star.kt": 'package u\nimport m.*\n// Point\nval p = "Mark ${Color.A}"\n',
        "Named.kt": "package u\nimport m.twice\nimport kotlin.jvm.JvmName\n",
        "Mark2.kt": "package u\nimport m.Mark as M\n",
        "J.java": "package u;\nimport static m.Exts.twice;\nclass J {}\n",
    }
    assert edges_of(files) == [
        "J.java -> Ext.kt",
        "Mark2.kt -> Marks.kt",
        "Named.kt -> Ext.kt",
        "Star.kt -> Data.kt",
    ]


def test_java_star_without_a_mention_gives_no_edge():
    files = {
        "a/A.java": "package a;\npublic class A { static class In {} }\n",
        "b/B.java": "package b;\nimport a.*;\nclass B { /* A */ }\n",
        "b/C.java": "package b;\nimport a.*;\nimport a.A.In;\nclass C { }\n",
        "b/D.java": "package b;\nimport a.*;\nclass D extends A { }\n",
        "x/a/A.java": "package x.a;\nclass A {}\n",
    }
    assert edges_of(files) == ["b/C.java -> a/A.java", "b/D.java -> a/A.java"]


def test_csharp_mentions_and_global_usings():
    files = {
        "Lib/Lib.csproj": "<Project/>",
        "Lib/Types.cs": "namespace L { class T { class Nested {} } }",
        "Lib/Other.cs": "namespace L; public delegate void Hook(int x);",
        "Lib/Usings.cs": "global using L;\n",
        "Lib/Use.cs": "namespace U; class Use : T { }",
        "App/App.csproj": "<Project/>",
        "App/None.cs": 'using L;\nclass A { string s = "T"; } // Hook',
        "App/Hooks.cs": "using L;\nclass B { Hook h; }",
        "App/Free.cs": "class C : T { }",
        "App/Alias.cs": "using X = L.T;\nclass D { X x; }",
    }
    assert edges_of(files) == [
        "App/Alias.cs -> Lib/Types.cs",
        "App/Hooks.cs -> Lib/Other.cs",
        "Lib/Use.cs -> Lib/Types.cs",
    ]


def test_a_package_is_found_by_those_that_depend_on_it():
    files = {
        "package.json": '{"name": "orm", "main": "./dist/index.js"}',
        "src/index.ts": "export const a = 1;\n",
        "src/self.ts": 'import { a } from "orm";\n',
        # In the folder of `orm`, and no part of it.
        "tools/move/package.json": '{"name": "move"}',
        "tools/move/fixture.ts": 'import { a } from "orm";\n',
        "tools/use/package.json": '{"name": "use", "peerDependencies": {"orm": "*"}}',
        "tools/use/x.ts": 'import { a } from "orm";\n',
    }
    edges = ["src/self.ts -> src/index.ts", "tools/use/x.ts -> src/index.ts"]
    assert edges_of(files) == edges
    files["package.json"] = files["package.json"].replace(
        "{", '{"workspaces": ["tools/*"], ', 1
    )
    assert edges_of(files) == sorted([*edges, "tools/move/fixture.ts -> src/index.ts"])


def test_csharp_extension_methods_by_their_calls():
    files = {
        "Lib/Ext.cs": """
            namespace L;
            public static class Ext
            {
                public static int Twice(this int x) => 2 * x;
                public static T Wrap<T>(this T x, int n) where T : class => x;
                public static void Add(this Thing t, int x) { }
                public static bool Check(this Thing t) => true;
            }
            """,
        "Lib/Thing.cs": "namespace M; class Thing { bool Check() { return true; } }",
        "A.cs": "using L;\nclass A { int x = 3.Twice(); }",
        "B.cs": "using L;\nclass B { object Make(string s) => s?.Wrap<string>(4); }",
        "NoUsing.cs": "class C { int x = 3.Twice(); }",
        # .NET's collections have `Add`, and this repository has another `Check`.
        "Unknown.cs": "using L;\nclass D { void F() { list.Add(1); thing.Check(); } }",
    }
    assert edges_of(files) == ["A.cs -> Lib/Ext.cs", "B.cs -> Lib/Ext.cs"]


def test_csharp_usings_of_project_files():
    files = {
        "Directory.Build.props": '<Project><Using Include="L" /></Project>',
        "App/App.csproj": """
            <Project><ItemGroup>
              <Using Include="L.Tools" Static="true" />
              <!-- <Using Include="Hidden" /> -->
              <Using Remove="System.Net.Http" />
            </ItemGroup></Project>
            """,
        "Lib/Lib.csproj": "<Project/>",
        "Lib/T.cs": "namespace L; class T { }",
        "Lib/Tools.cs": "namespace L; static class Tools { static int Do() => 1; }",
        "Lib/Hidden.cs": "namespace Hidden; class H { }",
        "App/A.cs": "class A : T { }",
        "App/B.cs": "class B { int x = Do(); H h; }",
        "App/C.cs": "class C { }",
    }
    assert edges_of(files) == ["App/A.cs -> Lib/T.cs", "App/B.cs -> Lib/Tools.cs"]


def test_csharp_after_an_error_the_main_type_is_known():
    files = {
        "Lib.cs": (
            "namespace L;\nclass Main {\n#if X\n void F() {\n#else\n void G() {\n"
            "#endif\n }\n}\n]]"
        ),
        "Use.cs": "using L;\nclass Use { Main m; }",
    }
    assert edges_of(files) == ["Use.cs -> Lib.cs"]


def test_rust_modules_that_macros_declare():
    files = {
        "Cargo.toml": '[package]\nname = "core"\nedition = "2021"\n',
        "src/lib.rs": "#[macro_use]\nmod root;\nroot!();\nother!();\n",
        "src/root.rs": """
            macro_rules! root {
                () => {
                    #[cfg_attr(docsrs, path = "elsewhere/de.rs")]
                    pub mod de;
                    mod ser;
                };
            }
            """,
        "src/de.rs": "use crate::ser::A;\n",
        "src/ser.rs": "pub struct A;\n",
        "tests/suite/main.rs": 'automod::dir!("tests/suite");\n',
        "tests/suite/one.rs": "use super::two::B;\nuse core::de;\n",
        "tests/suite/two.rs": "pub struct B;\n",
    }
    assert edges_of(files) == [
        "src/de.rs -> src/ser.rs",
        "src/lib.rs -> src/de.rs",
        "src/lib.rs -> src/root.rs",
        "src/lib.rs -> src/ser.rs",
        "tests/suite/main.rs -> tests/suite/one.rs",
        "tests/suite/main.rs -> tests/suite/two.rs",
        "tests/suite/one.rs -> src/de.rs",
        "tests/suite/one.rs -> tests/suite/two.rs",
    ]


def test_rust_files_of_no_crate_import_nothing():
    """Cargo never reads them: here, programs that a test compiles to see them fail."""
    files = {
        "Cargo.toml": '[package]\nname = "core"\n',
        "src/lib.rs": "pub struct A;\n",
        "tests/ui.rs": "use core::A;\n",
        "tests/ui/wrong.rs": "use core::A;\n",
    }
    assert edges_of(files) == ["tests/ui.rs -> src/lib.rs"]
    del files["Cargo.toml"]  # Then folders say all there is to know.
    files["src/part.rs"] = "use crate::A;\n"
    assert edges_of(files) == ["src/part.rs -> src/lib.rs"]


def test_rust_crate_roots_macros_and_workspace():
    files = {
        "core/Cargo.toml": '[package]\nname = "my-core"\nedition = "2021"\n',
        "core/src/lib.rs": """
            cfg_net! { mod net; pub use self::net::A; }
            #[path = "odd.rs"]
            mod even;
            mod inline { mod deep; use super::net; }
            #[cfg(unix)] #[path = "unix.rs"] mod imp;
            #[cfg(windows)] #[path = "windows.rs"] mod imp;
            """,
        "core/src/unix.rs": "use super::net;\n",
        "core/src/windows.rs": "",
        "core/src/net.rs": "pub struct A;\n",
        "core/src/odd.rs": "use crate::net::A;\n",
        "core/src/inline/deep.rs": "use super::super::even;\n",
        "core/tests/it.rs": "mod help;\nuse my_core::net::A;\nuse help::x;\n",
        "core/tests/help/mod.rs": "use serde::net;\n",
        "app/Cargo.toml": (
            '[package]\nname = "app"\n[[bin]]\nname = "a"\npath = "bin.rs"\n'
            '[dependencies]\nc = { path = "../core", package = "my-core" }\n'
        ),
        "app/bin.rs": "use c::net::A;\nmod part;\n",
        "app/part.rs": "extern crate my_core;\n",
    }
    assert edges_of(files) == [
        "app/bin.rs -> app/part.rs",
        "app/bin.rs -> core/src/net.rs",
        "app/part.rs -> core/src/lib.rs",
        "core/src/inline/deep.rs -> core/src/odd.rs",
        "core/src/lib.rs -> core/src/inline/deep.rs",
        "core/src/lib.rs -> core/src/net.rs",
        "core/src/lib.rs -> core/src/odd.rs",
        "core/src/lib.rs -> core/src/unix.rs",
        "core/src/lib.rs -> core/src/windows.rs",
        "core/src/odd.rs -> core/src/net.rs",
        "core/src/unix.rs -> core/src/net.rs",
        "core/tests/it.rs -> core/src/net.rs",
        "core/tests/it.rs -> core/tests/help/mod.rs",
    ]


def test_javascript_packages_of_one_repository():
    package = {
        "name": "@s/lib",
        "exports": {
            ".": {"types": "./src/index.d.ts", "default": "./dist/index.mjs"},
            "./f/*": "./src/features/*.js",
        },
        "imports": {"#inner": "./src/inner.js"},
    }
    files = {
        "packages/lib/package.json": json.dumps(package),
        "packages/lib/src/index.js": "import x from '#inner'\n",
        "packages/lib/src/index.d.ts": "export const x: number\n",
        "packages/lib/src/inner.js": "",
        "packages/lib/src/features/one.js": "import { x } from '@s/lib'\n",
        "packages/old/package.json": json.dumps({"name": "old", "main": "lib/a.js"}),
        "packages/old/src/a.ts": "",
        "app/main.js": "import lib from '@s/lib'\nimport one from '@s/lib/f/one'\n",
        "app/main.ts": "import lib from '@s/lib'\nimport old from 'old'\n",
        "app/other.js": "import react from 'react'\nimport y from '@other/lib'\n",
    }
    assert edges_of(files) == [
        "app/main.js -> packages/lib/src/features/one.js",
        "app/main.js -> packages/lib/src/index.js",
        "app/main.ts -> packages/lib/src/index.d.ts",
        "app/main.ts -> packages/old/src/a.ts",
        "packages/lib/src/features/one.js -> packages/lib/src/index.js",
        "packages/lib/src/index.js -> packages/lib/src/inner.js",
    ]


def test_typescript_paths_base_url_and_extends():
    files = {
        "tsconfig.base.json": """{
            // comments and trailing commas are allowed
            "compilerOptions": {"baseUrl": ".", "paths": {"~lib/*": ["libs/*/src",],}},
        }""",
        "libs/a/src/index.ts": "",
        "app/tsconfig.json": '{"extends": "../tsconfig.base.json"}',
        "app/main.ts": "import a from '~lib/a'\nimport u from 'app/util'\n",
        "app/util.ts": "import './gone.js'\nimport b from './both.js'\n",
        "app/both.ts": "",
        "app/both.js": "",
        "plain/main.ts": "import a from '~lib/a'\n",
    }
    assert edges_of(files) == [
        "app/main.ts -> app/util.ts",
        "app/main.ts -> libs/a/src/index.ts",
        "app/util.ts -> app/both.ts",
    ]


@pytest.mark.parametrize(
    "text", ["{", "[[[", "<a", "module", "[package]\nname = 1\n", '{"name": []}', ""]
)
@pytest.mark.parametrize(
    "name",
    ["package.json", "tsconfig.json", "Cargo.toml", "go.mod", "pyproject.toml"],
)
def test_a_broken_build_file_says_nothing(name, text):
    files = {
        name: text,
        "src/a.py": "import b\n",
        "src/b.py": "",
        "src/a.ts": "import './b'\n",
        "src/b.ts": "",
        "src/lib.rs": "mod x;\n",
        "src/x.rs": "",
    }
    assert edges_of(files) == [
        "src/a.py -> src/b.py",
        "src/a.ts -> src/b.ts",
        "src/lib.rs -> src/x.rs",
    ]


def test_facts_go_through_json():
    files = {"a.py": "from .b import c\n", "A.kt": "package p\nclass A\n", **GO}
    for facts in facts_of(files):
        value = json.loads(json.dumps(facts.to_json()))
        assert imports.Facts.from_json(value) == facts


# Tests


@pytest.mark.parametrize(
    ("test", "subject"),
    [
        ("test/args-test.cc", "include/fmt/args.h"),
        ("test/test-async.c", "src/unix/async.c"),
        ("tests/src/unit-hash.cpp", "include/hash.hpp"),
        ("test/create-date-column.test.ts", "src/decorator/CreateDateColumn.ts"),
        ("Polly.Specs/RetrySpecs.cs", "Polly/Retry.cs"),
        ("Polly.Tests/RetryTests.cs", "Polly/Retry.cs"),
        ("src/__tests__/cart.js", "src/cart.js"),
        ("tests/test_app.py", "src/app.py"),
    ],
)
def test_names_of_tests_as_they_are(test, subject):
    found = order.order_files(facts_of({test: "", subject: "", "zz/other.py": ""}))
    assert found.tests == {test: subject}


def test_a_test_never_breaks_its_subjects_imports():
    """The test of `a` needs `c`, `c` needs `b` and `b` needs `a`: the test gives way."""
    files = {
        "a.py": "",
        "b.py": "def f():\n    import a\n",
        "c.py": "def f():\n    import b\n",
        "tests/test_a.py": "import c\nimport a\nc.x(c.y, c.z)\n",
        "tests/helper.py": "import c\n",
    }
    found = order.order_files(facts_of(files))
    removed = [(e.importer, e.imported) for e in found.removed]
    assert removed == [("tests/test_a.py", "c.py")]
    assert found.tests == {"tests/test_a.py": "a.py"}


def test_what_an_implementation_imports_is_no_test():
    files = {
        "a.py": "import b\n",
        "b.py": "import test_a\n",
        "test_a.py": "x = 1\n",
    }
    found = order.order_files(facts_of(files))
    assert found.removed == ()
    assert found.paths == ("test_a.py", "b.py", "a.py")
