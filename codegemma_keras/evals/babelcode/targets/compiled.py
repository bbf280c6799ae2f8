"""C++, Go and Rust."""

from codegemma_keras.evals.babelcode.targets.target import (
    Target,
    block_comment,
    line_comment,
)

MAP = ("dict", "dictionary", "dictionaries")
ARRAY = ("vector", "list")
NULL = {"null": ("None",), "true": ("True",), "false": ("False",)}

CPP = Target(
    types={
        "boolean": "bool",
        "integer": "int",
        "long": "long long",
        "float": "double",
        "string": "string",
        "list": "vector<{0}>",
        "set": "set<{0}>",
        "map": "map<{0}, {1}>",
    },
    values={
        "long": "{items}LL",
        "string": "string({items})",
        "list": "{type}{{{items}}}",
        "set": "{type}{{{items}}}",
        "map": "{type}{{{items}}}",
    },
    pair="{{{0}, {1}}}",
    style="camel",
    reserved="int char long double float bool new class default case switch do delete "
    "this void static const signed unsigned short auto operator template register "
    "union namespace and or not xor",
    parameter="{type} {name}",
    signature="{returns} {name}({parameters}) {{",
    comment=block_comment(),
    words={"vector": ("array", "list"), "map": MAP, "C++": ("Python",), **NULL},
    stops=("\n}",),
    close="\n}\n",
    character="\\{:03o}",
    before="#include <bits/stdc++.h>\nusing namespace std;\n\n",
    call="    call({case}, [&] {{ put({name}({arguments})); }});\n",
    after=r"""
#include <bits/stdc++.h>
namespace answers {
std::ofstream out("/dev/fd/3");
void put(bool v) { out << (v ? "true" : "false"); }
void put(int v) { out << v; }
void put(long v) { out << v; }
void put(long long v) { out << v; }
void put(unsigned long v) { out << v; }
void put(double v) { out << std::setprecision(17) << v; }
void put(float v) { put((double)v); }
void put(const std::string& v) {
  out << '"';
  for (unsigned char c : v) {
    char code[8];
    if (c == '"' || c == '\\') out << '\\' << c;
    else if (c < 32) { snprintf(code, 8, "\\u%04x", c); out << code; }
    else out << c;
  }
  out << '"';
}
void put(const char* v) { put(std::string(v)); }
void put(char v) { put(std::string(1, v)); }
template <class A, class B> void put(const std::pair<A, B>& v);
template <class A> void put(const std::vector<A>& v);
template <class A> void put(const std::set<A>& v);
template <class A, class B> void put(const std::map<A, B>& v);
template <class T> void each(const T& v) {
  out << '[';
  bool first = true;
  for (const auto& item : v) { if (!first) out << ','; first = false; put(item); }
  out << ']';
}
void put(const std::vector<bool>& v) {
  out << '[';
  for (size_t i = 0; i < v.size(); i++) { if (i) out << ','; put((bool)v[i]); }
  out << ']';
}
template <class A, class B> void put(const std::pair<A, B>& v) {
  out << '['; put(v.first); out << ','; put(v.second); out << ']';
}
template <class A> void put(const std::vector<A>& v) { each(v); }
template <class A> void put(const std::set<A>& v) { each(v); }
template <class A, class B> void put(const std::map<A, B>& v) { each(v); }
template <class F> void call(int number, F f) {
  out << number << '\t';
  try { f(); }
  catch (const std::exception& e) { out << "!" << e.what(); }
  catch (...) { out << "!an exception"; }
  out << std::endl;
}
void all() {
CALLS}
}
int main() { answers::all(); }
""",
)

GO = Target(
    types={
        "boolean": "bool",
        "integer": "int",
        "long": "int64",
        "float": "float64",
        "string": "string",
        "list": "[]{0}",
        "set": "map[{0}]bool",
        "map": "map[{0}]{1}",
    },
    values={
        "long": "int64({items})",
        "list": "{type}{{{items}}}",
        "set": "{type}{{{items}}}",
        "map": "{type}{{{items}}}",
    },
    pair="{0}: {1}",
    member="{0}: true",
    style="camel",
    reserved="string int bool type func var map range interface package import select "
    "switch case default go chan const defer struct len cap min max new make append",
    parameter="{name} {type}",
    signature="func {name}({parameters}) {returns} {{",
    comment=line_comment("//"),
    words={
        "array": ARRAY,
        "map": MAP,
        "Go": ("Python",),
        "nil": ("None",),
        "true": ("True",),
        "false": ("False",),
    },
    stops=("\nfunc", "struct", "\n// "),
    before="",
    call="\tcall({case}, func() any {{ return {name}({arguments}) }})\n",
    after=r"""
var answersFile = answers_os.NewFile(3, "answers")

func answersText(v any) string {
	value := answers_reflect.ValueOf(v)
	switch value.Kind() {
	case answers_reflect.Slice, answers_reflect.Array:
		parts := []string{}
		for i := 0; i < value.Len(); i++ {
			parts = append(parts, answersText(value.Index(i).Interface()))
		}
		return "[" + answers_strings.Join(parts, ",") + "]"
	case answers_reflect.Map:
		parts := []string{}
		for _, key := range value.MapKeys() {
			k, item := answersText(key.Interface()), value.MapIndex(key)
			if !SETS {
				parts = append(parts, "["+k+","+answersText(item.Interface())+"]")
			} else if item.Bool() {
				parts = append(parts, k)
			}
		}
		return "[" + answers_strings.Join(parts, ",") + "]"
	}
	text, err := answers_json.Marshal(v)
	if err != nil {
		return "!" + err.Error()
	}
	return string(text)
}

func call(number int, f func() any) {
	defer func() {
		if problem := recover(); problem != nil {
			answers_fmt.Fprintf(answersFile, "%d\t!%v\n", number, problem)
		}
	}()
	text := answersText(f())
	answers_fmt.Fprintf(answersFile, "%d\t%s\n", number, text)
}

func main() {
CALLS}
""",
)

RUST = Target(
    types={
        "boolean": "bool",
        "integer": "i32",
        "long": "i64",
        "float": "f64",
        "string": "String",
        "list": "Vec<{0}>",
        "set": "HashSet<{0}>",
        "map": "HashMap<{0}, {1}>",
    },
    values={
        "string": "{items}.to_string()",
        "list": "Vec::<{0}>::from([{items}])",
        "set": "HashSet::<{0}>::from([{items}])",
        "map": "HashMap::<{0}, {1}>::from([{items}])",
    },
    pair="({0}, {1})",
    style="snake",
    reserved="type match in as fn let mod ref use where self move box impl trait enum "
    "struct pub mut loop dyn crate super",
    parameter="{name}: {type}",
    signature="pub fn {name}({parameters}) -> {returns} {{",
    comment=line_comment("///"),
    words={"vector": ("array", "list"), "map": MAP, "Rust": ("Python",), **NULL},
    stops=("\n}",),
    close="\n}\n",
    character="\\u{{{:x}}}",
    before="#[allow(unused_imports)]\nuse std::collections::{HashMap, HashSet};\n\n",
    call="    answers::call(out, {case}, || {name}({arguments}));\n",
    after=r"""
mod answers {
    use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
    use std::io::Write;
    pub trait Text { fn text(&self) -> String; }
    macro_rules! plain { ($($t:ty),*) => { $(impl Text for $t {
        fn text(&self) -> String { format!("{}", self) } })* } }
    plain!(bool, i8, i32, i64, u8, u32, u64, usize, isize);
    impl Text for f64 { fn text(&self) -> String { format!("{:e}", self) } }
    impl Text for str { fn text(&self) -> String {
        let mut s = String::from("\"");
        for c in self.chars() {
            match c {
                '"' | '\\' => { s.push('\\'); s.push(c) }
                c if (c as u32) < 32 => s.push_str(&format!("\\u{:04x}", c as u32)),
                c => s.push(c),
            }
        }
        s + "\""
    } }
    impl Text for String { fn text(&self) -> String { self.as_str().text() } }
    impl Text for char { fn text(&self) -> String { self.to_string().text() } }
    impl<T: Text + ?Sized> Text for &T { fn text(&self) -> String { (**self).text() } }
    fn list<T: Text>(items: impl Iterator<Item = T>) -> String {
        format!("[{}]", items.map(|i| i.text()).collect::<Vec<_>>().join(","))
    }
    impl<A: Text, B: Text> Text for (A, B) { fn text(&self) -> String {
        format!("[{},{}]", self.0.text(), self.1.text()) } }
    impl<T: Text> Text for Vec<T> { fn text(&self) -> String { list(self.iter()) } }
    impl<T: Text> Text for HashSet<T> { fn text(&self) -> String { list(self.iter()) } }
    impl<T: Text> Text for BTreeSet<T> { fn text(&self) -> String { list(self.iter()) } }
    impl<A: Text, B: Text> Text for HashMap<A, B> {
        fn text(&self) -> String { list(self.iter()) } }
    impl<A: Text, B: Text> Text for BTreeMap<A, B> {
        fn text(&self) -> String { list(self.iter()) } }
    pub fn call<T: Text>(out: &mut std::fs::File, number: i32, f: impl FnOnce() -> T) {
        let text = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
            Ok(value) => value.text(),
            Err(e) => format!("!{}", e.downcast_ref::<String>().cloned().unwrap_or(
                e.downcast_ref::<&str>().unwrap_or(&"panic").to_string())
                .replace('\n', " ")),
        };
        writeln!(out, "{}\t{}", number, text).unwrap();
    }
}

fn main() {
    let out = &mut std::fs::OpenOptions::new().write(true).open("/dev/fd/3").unwrap();
CALLS}
""",
)
