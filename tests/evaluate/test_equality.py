import pytest
from hypothesis import given
from hypothesis import strategies as st

from rac.evaluate.equality import decided
from rac.evaluate.math import grade_many
from rac.evaluate.spelling import is_integer, normalise

# What was wrong or needs care: gold, answers that are equal to it, answers that are not.
CASES = {
    "bases": [
        ("52_8", [r"52_{8}", "52", "42_{10}"], ["52_7", "53_8", "42", "52_{16}"]),
        ("4210_{5}", ["4210_5"], ["4210_6", "4120_5"]),
        ("2A_{16}", ["42_{10}"], ["2B_{16}", "2A_{12}"]),
    ],
    "tuples": [
        ("(2,4)", ["(2, 4)", "2,4", r"\left(2, \frac{8}{2}\right)"], [r"\{2,4\}", "(4,2)", "4,2", "[2,4]"]),
        ("(3,1)", ["(3, 1)"], ["(5,2)", "(1,3)", r"\{3,1\}", "(3,1,0)"]),
        (r"\{2,4\}", [r"\{4, 2\}", "4,2"], ["(2,4)", r"\{2,5\}", r"\{2,4,6\}"]),
        ("(15,-29)", ["x=15, y=-29", "(x,y)=(15,-29)"], ["x=-29, y=15", "(x,y)=(15,29)"]),
        (r"\left(3, \frac{1}{3}\right)", ["(3, 2/6)"], ["(3, 0.333333)", r"(3, \frac{1}{2})"]),
    ],
    "lists": [
        ("3, 5, 7", ["7,5,3", r"3, 5 \text{ and } 7", r"\{3,5,7\}"], ["3,5", "3,5,8", "3,5,7,9"]),
        ("-2,1", [r"x=1 \text{ or } x=-2", "x=-2, x=1", "1 and -2"], ["2,1", "x=1 or x=2"]),
        (r"1 \pm \sqrt{19}", [r"1-\sqrt{19}, 1+\sqrt{19}", r"x = 1 \pm \sqrt{19}"],
         [r"1+\sqrt{19}", r"1 \pm \sqrt{17}", r"-1 \pm \sqrt{19}"]),
        (r"\pm 5", ["5,-5", "x = ±5"], ["5", "-5", r"\pm 6"]),
        (r"\{1\pm\sqrt{5},-2\}", [r"-2,1+\sqrt5,1-\sqrt5"], [r"1\pm\sqrt5", r"\{1\pm\sqrt{5},2\}"]),
    ],
    "intervals": [
        ("(3,4]", [r"\left(3,4\right]", r"x \in (3,4]", r"3 < x \le 4"], ["(3,4)", "[3,4)", "[3,4]", "3,4"]),
        (r"x \in [-2,7]", ["[-2,7]", r"-2 \leq x \leq 7", r"7 \ge x \ge -2"],
         ["(-2,7)", "[-2,8]", "-2 < x < 7", "[2,7]"]),
        (r"(2,\infty)", ["x > 2", "2 < x", r"(2,+\infty)"], [r"x \ge 2", "x < 2", r"[2,\infty)", r"(-\infty,2)"]),
        (r"(-\infty, 0]", [r"x \le 0"], [r"(-\infty,0)", "x < 0"]),
        ("(2,4)", [], ["2 < x < 4"]),
        (r"(0,9) \cup (9,36)", [r"(9,36) \cup (0,9)", r"x \in (0,9)\cup(9,36)"],
         ["(0,36)", r"(0,9) \cup [9,36)", r"(0,9) \cup (9,35)"]),
    ],
    "repeating decimals": [
        (r"\frac{1}{3}", [r"0.\overline{3}", r"0.\bar{3}", "2/6"], ["0.3", "0.333333", "0.33333333333333333333", r"0.\overline{33}4"]),
        (r"0.1\overline{6}", [r"\frac{1}{6}", r".1\overline{66}"], [r"0.\overline{16}", "0.16", "0.166667"]),
        (r"0.\overline{9}", ["1"], ["0.9"]),
    ],
    "decimals": [
        (".0000672", [r"6.72 \times 10^{-5}", r"6.72\cdot10^{-5}", "0.00006720"], [".0000674", r"6.72 \times 10^{-4}"]),
        ("2\\cdot 10^{-20}", [r"20 \times 10^{-21}"], [r"3\cdot 10^{-20}", "0"]),
        (r"\sqrt{2}", [r"\frac{2}{\sqrt{2}}"], ["1.414214", "1.4142135623730951", "1.41421356237309504880"]),
        (r"\pi", [], ["3.141593", "3.14", "22/7"]),
        ("1.25", ["5/4", r"1\frac14", "1.250"], ["1.26", "125", "12.5", "1,25"]),
        (r"1.5x+2", [r"\frac{3}{2}x+2", "2+1.5x"], ["1.5x+2.000001", "1.5x-2"]),
        (r"\begin{pmatrix} 1/3 \\ 2 \end{pmatrix}", [r"\begin{bmatrix} 1/3 \\ 2 \end{bmatrix}"],
         [r"\begin{pmatrix} 0.333333 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1/3 & 2 \end{pmatrix}",
          r"\begin{pmatrix} 2 \\ 1/3 \end{pmatrix}"]),
    ],
    "mixed numbers": [
        (r"1\frac{4}{5}", ["9/5", "1 4/5", "1.8", r"1 \frac{4}{5}"], [r"\frac{4}{5}", "14/5", "1", r"1\frac{3}{5}"]),
        (r"137 \frac{1}{2}", ["137.5", "275/2"], ["137/2", "137"]),
        (r"-1\frac{1}{2}", ["-3/2"], ["-1/2", r"1\frac12"]),
        ("1", [], ["1 4/5"]),
    ],
    "thousands": [
        ("10080", [r"10\,080", "10 080", "10,080", r"10{,}080", r"10,\!080", r"10\;080"], ["10, 80", "10.080", "1080"]),
        (r"11,\! 111,\! 111,\! 100", ["11111111100", "11,111,111,100"], ["1111111100"]),
        (r"\$32,\!348", ["32348", r"\$32,348.00", r"32{,}348 \text{ dollars}"], ["32.348", r"\$32,384"]),
        ("1234", [], ["1, 234", "1.234"]),
        ("(1000, 2)", [r"(1{,}000, 2)"], ["(1, 000, 2)"]),
    ],
    "chains": [
        ("5", ["x=5", "x = 2+3 = 5", r"\angle A = 5", r"\text{Area} = 5", "f(2) = 5", "5 = x", "2+3=5"],
         ["3=5", "x = 3 = 5", "2+2=5", r"\frac{1}{2} = 5", "x=-5", "5=6"]),
        ("x=5", ["5", "x = 5", "x = 10/2"], ["y=5", "x=6", "6", "3=5"]),
        (r"\frac{1}{3}", [r"\frac{1}{3} \approx 0.333", r"x = \frac{2}{6} = \frac{1}{3}"], [r"x \approx 0.333", "1/3 = 0.333"]),
        ("2.86", [r"\frac{20}{7} = 2.86", r"x \approx 2.86"], [r"\frac{20}{7} = 2.87", r"\frac{21}{7} = 2.86"]),
        ("y = 2x+3", ["2x+3", "y=3+2x", "y - 2x = 3"], ["2x-3", "y=2x", "y=3x+2"]),
        ("5x - 7y + 11z + 4 = 0", ["10x - 14y + 22z + 8 = 0", "5x-7y+11z=-4"], ["5x - 7y + 11z = 4", "5x-7y+11z"]),
    ],
    "degrees": [
        (r"\frac12", [r"\sin 30^\circ", r"\sin{30^{\circ}}", r"\cos(60°)"], [r"\sin 60^\circ", r"\sin 30"]),
        (r"90^\circ", ["90", r"90 \text{ degrees}", r"\frac{\pi}{2}", "90°", r"90^{\circ}"],
         ["80", r"\pi", r"\frac{90}{\pi}", r"90\pi"]),
        (r"\frac{\pi}{6}", [r"30^\circ"], [r"60^\circ", "30"]),
        (r"\frac{270}7\text{ degrees}", [r"\frac{270}{7}^\circ", r"\frac{270}{7}"], [r"\frac{270}{8}^\circ"]),
    ],
    "units": [
        (r"864 \mbox{ inches}^2", ["864", r"864 \text{ square inches}", r"864\text{ in}^2", r"6 \text{ square feet}"],
         [r"864 \text{ cm}^2", r"864 \text{ inches}^3", "846", "24"]),
        (r"5.4 \text{ cents}", ["5.4", r"5.4 \text{ cents}", r"\$0.054"], [r"\$5.40", r"5.4 \text{ dollars}", "54", "0.054"]),
        (r"\$18.90", ["18.9", "18.90", r"\text{\$}18.90", "$18.90"], ["18.09", "189", r"18.9\text{ cents}"]),
        (r"8\pi \text{ cm}", [r"8\pi", r"\frac{8\pi}{100} \text{ m}"], [r"8\pi \text{ m}", r"8 \text{ cm}", r"8\pi \text{ cm}^2"]),
        ("5", ["5 cm", "5 apples", r"5\text{ apples}", r"5\,\mathrm{m}", "5 m"], ["5t", "5x", "5i", "6 cm", "5ab"]),
        ("5t", ["5 t", r"5\cdot t"], ["5", "5s", "5t^2"]),
        ("2h", [], ["2", "2g", "2m"]),
        (r"5 \text{ million}", ["5,000,000", "5"], ["500000", r"5 \text{ billion}"]),
    ],
    "percent": [
        (r"10\%", ["10", "0.1", r"10 \%", r"\frac{1}{10}", r"10 \text{ percent}"], ["11", "0.01", r"0.1\%", "1"]),
        (r"12.5\%", ["12.5", "0.125", r"\frac{1}{8}"], ["12", "1.25"]),
        ("12.5", [r"12.5\%"], [r"1.25\%"]),
        ("0.5", [r"50\%"], [r"0.5\%"]),
    ],
    "texts": [
        (r"\text{Evelyn}", ["Evelyn", r"\text{evelyn}", r"\text{ Evelyn }", r"\textbf{Evelyn}", r"\text{Evelyn.}"],
         [r"\text{Briana}", "Briana", r"\text{Evelyn and Briana}"]),
        (r"\text{east}", ["east", r"\mathrm{east}"], ["seat", r"\text{seat}", "west"]),
        (r"\text{(C)}", ["C", "(C)", r"\text{C}", r"\textbf{(C)}", r"(C)\ 25", r"\textbf{(C)}\ \text{east}"],
         ["B", "(B)", r"(B)\ 25", r"\text{C, D}", "25"]),
        ("xy", ["yx", r"x \cdot y"], ["x+y", "x"]),
        (r"\text{even}", ["even", r"\text{Even}"], [r"\text{odd}", "2"]),
    ],
    "symbols": [
        ("6 - 5i", [r"6-5\mathrm{i}", "-5i+6"], ["6+5i", "6", "5-6i"]),
        ("-5", ["−5", "–5"], ["5"]),
        (r"\infty", [r"+\infty", "∞"], [r"-\infty", "0"]),
        (r"\emptyset", [r"\varnothing", r"\{\}"], [r"\{0\}", "0"]),
        (r"3\sqrt{13}", [r"\sqrt{117}", r"3\sqrt{13}."], [r"13\sqrt3", r"3\sqrt{12}"]),
        ("3:4", [r"\frac{3}{4}", "6:8"], ["4:3", "3.4", "3,4"]),
        ("x<5", ["5>x"], [r"x \le 5", "x>5", "5"]),
        (r"(a+5)(b+2)", ["(b+2)(a+5)", "ab+2a+5b+10"], ["(a+2)(b+5)", "(a+5)+(b+2)", "(a+5,b+2)"]),
        ("R^2-r^2", ["(R-r)(R+r)", "-r^2+R^2"], ["0", "r^2-R^2", "R^2-s^2"]),
        ("2R", ["R+R", "2r"], ["R+r"]),
        ("2^{100}", ["1267650600228229401496703205376", "4^{50}"], ["2^{100}+1", "1267650600228229401496703205377"]),
    ],
}  # fmt: skip
PAIRS = [
    pytest.param(gold, answer, same, id=f"{kind}: {gold} {'=' if same else '≠'} {answer}")
    for kind, cases in CASES.items()
    for gold, equal, different in cases
    for same, answers in ((True, [gold, *equal]), (False, different))
    for answer in answers
]


@pytest.fixture(scope="module")
def grades():
    """All pairs graded in one go."""
    pairs = [(rf"\boxed{{{p.values[1]}}}", p.values[0], True) for p in PAIRS]
    return dict(zip(pairs, grade_many(pairs, workers=2), strict=True))


@pytest.mark.parametrize(("gold", "answer", "same"), PAIRS)
def test_each_correction_accepts_what_is_right_and_nothing_near(gold, answer, same, grades):
    grade = grades[rf"\boxed{{{answer}}}", gold, True]
    assert grade.correct == same
    assert grade.reason in (("exact", "equal") if same else ("different",))


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("007", "7"),
        ("+7", "7"),
        ("-0", "0"),
        ("$5$", "5"),
        (r"\(5\)", "5"),
        ("5.", "5"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\frac9{19}", r"\frac{9}{19}"),
        (r"\frac{270}7", r"\frac{270}{7}"),
        (r"\frac ab", r"\frac{a}{b}"),
        (r"\left(1,\ 2\right)", "(1, 2)"),
        (r"\leftarrow", r"\leftarrow"),
    ],
)
def test_normalise(answer, normal):
    assert normalise(answer) == normal


@given(st.text(max_size=40))
def test_normalising_twice_changes_integers_no_further(text):
    once = normalise(text)
    if is_integer(once):
        assert normalise(once) == once


SCRAPS = [
    r"1",
    r"2",
    r"12",
    r"0",
    r".",
    r",",
    r";",
    r"-",
    r"+",
    r"/",
    r"=",
    r"<",
    r">",
    r"\pm",
    r"\le",
    r"\ge",
    r"\in",
    r"(",
    r")",
    r"[",
    r"]",
    r"{",
    r"}",
    r"\{",
    r"\}",
    r"x",
    r"t",
    r"_8",
    r"_{8}",
    r"^",
    r"^\circ",
    r"\%",
    r"\$",
    r"cm",
    r"\infty",
]
SCRAPS += [
    r"\frac",
    r"\frac{1}{2}",
    r"\text{ cm}",
    r"\text{A}",
    r"\overline{3}",
    r"10^{-3}",
    " ",
    " or ",
    "(C)",
]


@given(*[st.lists(st.sampled_from(SCRAPS), max_size=12).map("".join)] * 2)
def test_what_text_decides_it_decides_for_any_text_and_both_ways_round(one, other):
    one, other = normalise(one), normalise(other)
    assert decided(one, one)
    verdict = decided(one, other)
    assert verdict in (True, False, None)
