"""Problems in eight languages: prompts, whole programs, verdicts.

Compilers are not needed here; `make test-languages` compiles and runs all of them.
"""

import dataclasses

import pytest

from codegemma_keras.evals import babelcode, catalog
from codegemma_keras.evals.data import Data
from codegemma_keras.sandbox import LANGUAGES, Limits, Result

ROW = {
    "task_id": "HumanEval/7",
    "prompt": "def count_words(texts, type):\n"
    '    """Give a dictionary of the words in a list.\n\n'
    '    None is never given */ "by" Python.\n    """\n',
    "entry_point": "count_words",
    "canonical_solution": "    return {t: texts.count(t) for t in texts}\n",
    "test": "def check(candidate):\n"
    "    assert candidate(['a', 'b', 'a'], 1) == {'a': 2, 'b': 1}\n"
    "    assert candidate([], 2) == {}\n"
    "    assert candidate(['\\n$\\x01'], 3) == {'\\n$\\x01': 1}\n",
}
PROBLEM = babelcode.from_humaneval(ROW)
LAST_LINES = {
    "cpp": "map<string, int> countWords(vector<string> texts, int type) {",
    "csharp": "    public Dictionary<string, int> CountWords(List<string> texts, int type) {",
    "go": "func countWords(texts []string, type_ int) map[string]int {",
    "java": "    public HashMap<String, Integer> countWords("
    "ArrayList<String> texts, Integer type) {",
    "javascript": "function countWords(texts, type) {",
    "kotlin": "fun countWords(texts: ArrayList<String>, type: Int): Map<String, Int> {",
    "python": '    None is never given */ "by" Python."""',
    "rust": "pub fn count_words(texts: Vec<String>, type_: i32) -> HashMap<String, i32> {",
}


def test_every_language_of_the_sandbox_is_a_target():
    assert set(babelcode.TARGETS) == set(LANGUAGES) == set(LAST_LINES)


@pytest.mark.parametrize("language", babelcode.TARGETS)
def test_prompts_are_comment_and_signature_in_the_language(language):
    lines = babelcode.prompt(PROBLEM, language).removesuffix("\n").split("\n")
    assert lines[-1] == LAST_LINES[language]
    text = "\n".join(lines[:-1])
    if "/**" in text:
        assert text.count("*/") == 1
    if language != "python":
        assert "null is" in text or "nil is" in text
        assert "Python" not in text


@pytest.mark.parametrize(
    ("language", "completion", "kept"),
    [
        ("cpp", "    return 1;\n}\nint main() {", "    return 1;\n}\n"),
        ("rust", "    1\n}\n\n#[test]", "    1\n}\n"),
        (
            "java",
            "        return 1;\n    }\n\n    int x",
            "        return 1;\n    }\n}\n",
        ),
        ("go", "\treturn 1\n}\n\nfunc main() {", "\treturn 1\n}\n"),
        ("javascript", "  return 1;\n}\n// test", "  return 1;\n}"),
        ("python", "    return 1\n\ndef g():", "    return 1\n"),
    ],
)
def test_a_completion_ends_with_its_function(language, completion, kept):
    assert babelcode.finished(completion, language) == kept


@pytest.mark.parametrize(
    ("language", "literal"),
    [
        ("cpp", r'vector<string>{string("\n$\001")}'),
        ("go", r'[]string{"\n$\u0001"}'),
        ("java", r'new ArrayList<String>(Arrays.<String>asList("\n$\u0001"))'),
        ("kotlin", r'arrayListOf<String>("\n\$\u0001")'),
        ("rust", r'Vec::<String>::from(["\n$\u{1}".to_string()])'),
    ],
)
def test_texts_are_escaped_as_the_language_does(language, literal):
    source = babelcode.program(PROBLEM, language, "ANSWER")
    assert literal in source
    assert "ANSWER" in source


def test_right_values_are_in_no_program():
    row = {**ROW, "test": "assert candidate(['a'], 1) == {'a': 987654}"}
    problem = babelcode.from_humaneval(row)
    for language in babelcode.TARGETS:
        assert "987654" not in babelcode.program(problem, language, "")


def test_go_imports_what_the_answer_names():
    source = babelcode.program(PROBLEM, "go", "x := strings.ToLower(y)")
    assert '\nimport "strings"\n' in source
    assert '\nimport "sort"\n' not in source


DONE = Result("passed", "passed", "", 1.0, "bubblewrap")
RIGHT = '0\t[["b",1],["a",2]]\n1\t[]\n2\t[["\\n$\\u0001",1]]\n'


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (RIGHT, "passed"),
        (RIGHT.replace("2]", "3]"), "wrong answer"),
        (RIGHT.replace("1\t[]", "1\t!IndexError: 1"), "exception"),
        (RIGHT.replace("1\t[]", "1\t["), "exception"),
        ("", "exited early"),
        ("0\t0\n" + RIGHT, "wrong answer"),  # the first line of a case counts
        ("passed\n", "exited early"),
    ],
)
def test_verdicts(answers, kind):
    result = dataclasses.replace(DONE, answers=answers)
    assert babelcode.verdict(PROBLEM, result)[0] == kind


def test_a_program_that_ended_badly_says_how():
    result = dataclasses.replace(DONE, kind="timeout", reason="timeout")
    assert babelcode.verdict(PROBLEM, result) == ("timeout", "timeout")
    result = dataclasses.replace(DONE, kind="killed", answers=RIGHT)
    assert babelcode.verdict(PROBLEM, result)[0] == "passed"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (ROW["canonical_solution"], "passed"),
        ("    print('0\\t[]')\n    return {t: 1 for t in texts}\n", "wrong answer"),
        ("    return 1 / 0\n", "exception"),
        ("    return [\n", "syntax"),
        ("    import os\n    os._exit(0)\n", "exited early"),
        ("    while True: pass\n", "timeout"),
        ("    return type('A', (), {'__eq__': lambda s, o: True})()\n", "exception"),
    ],
)
def test_python_answers_are_judged_in_the_sandbox(body, kind):
    limits = Limits(seconds=2 if kind == "timeout" else 60)
    answer = babelcode.prompt(PROBLEM, "python") + body
    assert babelcode.judge(PROBLEM, "python", answer, limits).kind == kind


def test_problems_without_a_counterpart_say_why():
    row = {**ROW, "test": "assert candidate(['a', 1], 1) == {}"}
    with pytest.raises(babelcode.UntranslatableError, match="string and integer"):
        babelcode.from_humaneval(row)
    row = {"task_id": 1, "text": "", "code": "def f(): pass", "test_list": ["assert 1"]}
    with pytest.raises(babelcode.UntranslatableError, match="no function"):
        babelcode.from_mbpp(row)


def test_the_eval_tasks_ask_and_judge_what_can_be_translated(monkeypatch):
    other = {
        **ROW,
        "task_id": "HumanEval/8",
        "test": "assert candidate([None], 1) == 1",
    }
    monkeypatch.setattr(Data, "rows", lambda self, source: [ROW, other])
    names = catalog.names(["babelcode-humaneval"])
    assert len(names) == 8
    task = catalog.make("babelcode-humaneval-python", "paper", Data())
    assert [problem.id for problem in task.problems] == ["HumanEval/7"]
    assert "HumanEval/8 (None has a type that others lack)" in task.notes[-1]
    [problem] = task.problems
    assert task.prompt(problem) == babelcode.prompt(PROBLEM, "python")
    good = task.program(problem, ROW["canonical_solution"] + "\n# more")
    bad = task.program(problem, "    return {}\n")
    from codegemma_keras.evals.evaluation import Judging

    cases = [task.case(problem, program) for program in (good, bad)]
    results = task.check_all(cases, Judging())
    assert [result.kind for result in results] == ["passed", "wrong answer"]
