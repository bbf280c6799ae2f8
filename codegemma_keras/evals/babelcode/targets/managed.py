"""C#, Java and Kotlin."""

from codegemma_keras.evals.babelcode.targets.compiled import ARRAY, MAP, NULL
from codegemma_keras.evals.babelcode.targets.target import Target, block_comment

CSHARP = Target(
    types={
        "boolean": "bool",
        "integer": "int",
        "long": "long",
        "float": "double",
        "string": "string",
        "list": "List<{0}>",
        "set": "HashSet<{0}>",
        "map": "Dictionary<{0}, {1}>",
    },
    values={
        "long": "{items}L",
        "list": "new {type} {{{items}}}",
        "set": "new {type} {{{items}}}",
        "map": "new {type} {{{items}}}",
    },
    pair="{{{0}, {1}}}",
    style="pascal",
    reserved="string int char long double float bool object in is as new class default "
    "case switch do interface operator this void static const ref params out base "
    "checked event lock namespace short decimal byte",
    parameter="{type} {name}",
    signature="    public {returns} {name}({parameters}) {{",
    head="class Solution {\n",
    comment=block_comment("    "),
    words={
        "list": ("array", "vector"),
        "dictionary": ("map", "dict"),
        "C#": ("Python",),
        **NULL,
    },
    stops=("\n    }\n",),
    close="\n    }\n}\n",
    before="using System;\nusing System.Collections.Generic;\nusing System.Linq;\n"
    "using System.Text;\nusing System.Text.RegularExpressions;\n"
    "using System.Numerics;\n\n",
    call="        Call({case}, () => new Solution().{name}({arguments}));\n",
    after=r"""
class Answers {
    static System.IO.StreamWriter file = new System.IO.StreamWriter("/dev/fd/3");
    static string Text(object v) {
        var invariant = System.Globalization.CultureInfo.InvariantCulture;
        if (v == null) return "null";
        if (v is bool) return (bool)v ? "true" : "false";
        if (v is char) return Text(v.ToString());
        if (v is double || v is float || v is decimal)
            return Convert.ToDouble(v).ToString("R", invariant);
        if (v is IConvertible && !(v is string)) return Convert.ToString(v, invariant);
        if (v is string) {
            var s = new System.Text.StringBuilder("\"");
            foreach (char c in (string)v) {
                if (c == '"' || c == '\\') s.Append('\\').Append(c);
                else if (c < 32) s.Append("\\u" + ((int)c).ToString("x4"));
                else s.Append(c);
            }
            return s.Append('"').ToString();
        }
        var parts = new System.Collections.Generic.List<string>();
        if (v is System.Collections.IDictionary)
            foreach (System.Collections.DictionaryEntry e
                     in (System.Collections.IDictionary)v)
                parts.Add("[" + Text(e.Key) + "," + Text(e.Value) + "]");
        else if (v is System.Collections.IEnumerable)
            foreach (var e in (System.Collections.IEnumerable)v) parts.Add(Text(e));
        else return "!" + v;
        return "[" + string.Join(",", parts) + "]";
    }
    static void Call<T>(int number, Func<T> f) {
        string text;
        try { text = Text(f()); }
        catch (Exception e) {
            text = "!" + e.GetType().Name + ": " + e.Message.Replace('\n', ' ');
        }
        file.Write(number + "\t" + text + "\n");
        file.Flush();
    }
    static void Main() {
CALLS    }
}
""",
)

JAVA = Target(
    types={
        "boolean": "Boolean",
        "integer": "Integer",
        "long": "Long",
        "float": "Double",
        "string": "String",
        "list": "ArrayList<{0}>",
        "set": "HashSet<{0}>",
        "map": "HashMap<{0}, {1}>",
    },
    values={
        "long": "{items}L",
        "list": "new {type}(Arrays.<{0}>asList({items}))",
        "set": "new {type}(Arrays.<{0}>asList({items}))",
        "map": "Main.<{0}, {1}>map({items})",
    },
    pair="{0}, {1}",
    style="camel",
    reserved="int char long double float boolean byte short new class default case "
    "switch do interface package import this void static final const abstract native "
    "enum try throw super",
    parameter="{type} {name}",
    signature="    public {returns} {name}({parameters}) {{",
    head="class Solution {\n",
    comment=block_comment("    "),
    words={"array": ARRAY, "map": MAP, "Java": ("Python",), **NULL},
    stops=("\n    }\n",),
    close="\n    }\n}\n",
    before="import java.util.*;\nimport java.util.stream.*;\nimport java.math.*;\n\n",
    call="        call({case}, () -> new Solution().{name}({arguments}));\n",
    after=r"""
class Main {
    static java.io.PrintStream file;
    @SuppressWarnings("unchecked")
    static <K, V> java.util.HashMap<K, V> map(Object... of) {
        java.util.HashMap<K, V> all = new java.util.HashMap<>();
        for (int i = 0; i < of.length; i += 2) all.put((K) of[i], (V) of[i + 1]);
        return all;
    }
    static String text(Object v) {
        if (v instanceof Character) v = v.toString();
        if (v instanceof String) {
            StringBuilder s = new StringBuilder("\"");
            for (char c : ((String) v).toCharArray()) {
                if (c == '"' || c == '\\') s.append('\\').append(c);
                else if (c < 32) s.append(String.format("\\u%04x", (int) c));
                else s.append(c);
            }
            return s.append('"').toString();
        }
        if (v instanceof java.util.Map) {
            java.util.StringJoiner all = new java.util.StringJoiner(",", "[", "]");
            for (java.util.Map.Entry<?, ?> e : ((java.util.Map<?, ?>) v).entrySet())
                all.add("[" + text(e.getKey()) + "," + text(e.getValue()) + "]");
            return all.toString();
        }
        if (v instanceof Iterable) {
            java.util.StringJoiner all = new java.util.StringJoiner(",", "[", "]");
            for (Object e : (Iterable<?>) v) all.add(text(e));
            return all.toString();
        }
        return String.valueOf(v);
    }
    static void call(int number, java.util.function.Supplier<Object> f) {
        String text;
        try { text = text(f.get()); }
        catch (Throwable e) { text = "!" + e.toString().replace('\n', ' '); }
        file.print(number + "\t" + text + "\n");
        file.flush();
    }
    public static void main(String[] arguments) throws Exception {
        file = new java.io.PrintStream("/dev/fd/3", "UTF-8");
CALLS    }
}
""",
)

KOTLIN = Target(
    types={
        "boolean": "Boolean",
        "integer": "Int",
        "long": "Long",
        "float": "Double",
        "string": "String",
        "list": "ArrayList<{0}>",
        "set": "MutableSet<{0}>",
        "map": "Map<{0}, {1}>",
    },
    values={
        "long": "{items}L",
        "list": "arrayListOf<{0}>({items})",
        "set": "mutableSetOf<{0}>({items})",
        "map": "mutableMapOf<{0}, {1}>({items})",
    },
    pair="{0} to {1}",
    style="camel",
    reserved="in is as object fun val var when interface package class this typealias "
    "typeof null",
    parameter="{name}: {type}",
    signature="fun {name}({parameters}): {returns} {{",
    comment=block_comment(),
    words={"array": ARRAY, "map": MAP, "Kotlin": ("Python",), **NULL},
    stops=("\n}",),
    close="\n}\n",
    escapes="$",
    before="import kotlin.math.*\n\n",
    call="    answersCall({case}) {{ {name}({arguments}) }}\n",
    after=r"""
val answersFile = java.io.PrintStream("/dev/fd/3", "UTF-8")

fun answersText(v: Any?): String = when (v) {
    is Char -> answersText(v.toString())
    is String -> v.map { c ->
        if (c == '"' || c == '\\') "\\" + c
        else if (c < ' ') String.format("\\u%04x", c.code)
        else c.toString()
    }.joinToString("", "\"", "\"")
    is Map<*, *> -> v.entries.joinToString(",", "[", "]") {
        "[" + answersText(it.key) + "," + answersText(it.value) + "]"
    }
    is Iterable<*> -> v.joinToString(",", "[", "]") { answersText(it) }
    else -> v.toString()
}

fun answersCall(number: Int, f: () -> Any?) {
    val text = try { answersText(f()) } catch (e: Throwable) {
        "!" + e.toString().replace('\n', ' ')
    }
    answersFile.print(number.toString() + "\t" + text + "\n")
    answersFile.flush()
}

fun main() {
CALLS}
""",
)
