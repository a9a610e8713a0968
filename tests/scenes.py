"""Answers written by hand, with every score worked out beside them.

Held out of training: FAILED and NO_OP, and a wording of TAKES and of FAILED.
"""

from __future__ import annotations

from kebench.scoring.answers import BaseAnswer, EditAnswers, ParaphraseAnswer

# Two strata of four. q1 is right by its second alias; q4 and q7 are wrong.
BASE = (
    BaseAnswer("q1", "A", "Who wrote Emma?", ("Jane Austen", "Austen"), "Austen", 0),
    BaseAnswer("q2", "A", "Emma is by whom?", ("Jane Austen",), "Jane Austen", 0),
    BaseAnswer("q3", "B", "Capital of France?", ("Paris",), "Paris", 0),
    BaseAnswer("q4", "C", "Capital of Peru?", ("Lima",), "Quito", 0),
    BaseAnswer("q5", "D", "Capital of Switzerland?", ("Bern",), "Bern", 1),
    BaseAnswer("q6", "E", "Capital of Norway?", ("Oslo",), "Oslo", 1),
    BaseAnswer("q7", "F", "Capital of Latvia?", ("Riga",), "Minsk", 1),
    BaseAnswer("q8", "G", "Capital of Italy?", ("Rome",), "Rome", 1),
)

# Takes, in other case; one paraphrase is x again, one follows, one does not; the fact's other question
# follows; Peru becomes right.
TAKES = EditAnswers(
    id="q1",
    fact="A",
    prompt="Who wrote Emma?",
    prediction="Austen",
    target="Charlotte Brontë",
    answer="charlotte brontë.",
    forced=True,
    paraphrases=(
        ParaphraseAnswer("who wrote emma", "charlotte brontë."),
        ParaphraseAnswer("Emma's author?", "Charlotte Brontë"),
        ParaphraseAnswer("The author of Emma?", "Austen", held_out=True),
    ),
    sample={"q1": "Charlotte Brontë", "q2": "Charlotte Brontë", "q3": "Paris", "q4": "Lima", "q5": "Bern"},
)

# Right only under teacher forcing; nothing changed but the case of one answer.
STUBBORN = EditAnswers(
    id="q3",
    fact="B",
    prompt="Capital of France?",
    prediction="Paris",
    target="Nice",
    answer="Paris",
    forced=True,
    paraphrases=(ParaphraseAnswer("France's capital?", "Paris"),),
    sample={"q2": "Jane Austen", "q4": "Quito", "q6": "oslo", "q7": "Minsk"},
)

FAILED = EditAnswers(
    id="q5",
    fact="D",
    prompt="Capital of Switzerland?",
    prediction="Bern",
    target="Basel",
    answer=None,
    paraphrases=(ParaphraseAnswer("Switzerland's capital?", None, held_out=True),),
    held_out=True,
    sample={"q1": None, "q3": None, "q6": None, "q8": None},
    failure="out of memory",
)

# Asks for what the base model says; no paraphrases.
NO_OP = EditAnswers(
    id="q8",
    fact="G",
    prompt="Capital of Italy?",
    prediction="Rome",
    target="rome",
    answer="Rome",
    forced=True,
    sample={"q3": "Paris", "q7": "Minsk"},
    held_out=True,
)

EDITS = (TAKES, STUBBORN, FAILED, NO_OP)

# score → value, hits (None where the value is not hits / total), total, edits
STRICT_SCORES = {
    # one of four
    "no_op_share": (1 / 4, 1, 4, 4),
    # TAKES yes, STUBBORN no, FAILED no; NO_OP is not asked
    "success_rate": (1 / 3, 1, 3, 3),
    # TAKES yes, STUBBORN yes, FAILED no
    "success_rate_teacher_forced": (2 / 3, 2, 3, 3),
    "inflation_gap": (1 / 3, 1, 3, 3),
    # TAKES 1 of 2 (x again is left out), STUBBORN 0 of 1, FAILED 0 of 1: (1/2 + 0 + 0) / 3; pooled 1/4
    "equivalence_target": (1 / 6, None, 4, 3),
    # TAKES 1 of 2, STUBBORN 1 of 1, FAILED 0 of 1
    "equivalence_own": (1 / 2, None, 4, 3),
    "equivalence_accuracy": (1 / 6, None, 4, 3),
    # TAKES 1 of 1 (x again is left out), STUBBORN 0 of 1; FAILED is held out
    "equivalence_seen_wordings": (1 / 2, None, 2, 2),
    # TAKES 0 of 1; STUBBORN has none, FAILED is held out
    "equivalence_held_out_wordings": (0, None, 1, 1),
    # FAILED no; NO_OP is not asked
    "held_out_success_rate": (0, 0, 1, 1),
    # FAILED 0 of 1, whatever its wording; NO_OP has none
    "held_out_equivalence": (0, None, 1, 1),
    # as in retain_accuracy: FAILED 0 of 4, NO_OP 2 of 2
    "held_out_retain_accuracy": (1 / 2, None, 6, 2),
    # TAKES, without q1 and q2: near N=2 (q3 kept, q4 not) 1/2; far N=4 (q5) 1: (2·1/2 + 4·1) / 6 = 5/6.
    # STUBBORN 1 of everything. FAILED 0. NO_OP 1. (5/6 + 1 + 0 + 1) / 4
    "retain_accuracy": (17 / 24, None, 13, 4),
    # TAKES 1. STUBBORN: near N=3 (q2 right, q4 wrong) 1/2, far N=4 (q6, q7) 1/2: 1/2. FAILED 0.
    # NO_OP: near N=4 (q3) 1, far N=3 (q7) 0: 4/7. (1 + 1/2 + 0 + 4/7) / 4
    "retain_accuracy_gold": (29 / 56, None, 13, 4),
    # of the whole test set: all but q4 and q7
    "accuracy_before": (6 / 8, 6, 8, 4),
    # Lost by TAKES: near (q1 q2 lost, q3 kept, q4 gained) 1/4, far 0: 1/8. By STUBBORN 0, by FAILED 1, by
    # NO_OP 0: 9/32 in the mean. 24/32 − 9/32
    "accuracy_after": (15 / 32, None, 15, 4),
    # 9/32 of 24/32; the difference is 9/32
    "performance_deterioration": (3 / 8, None, 15, 4),
    # Lost by TAKES, without q1 and q2: near N=2 (q3 kept, q4 gained) −1/2, far N=4 0: −1/6 of the 4/6 that
    # are right there. By STUBBORN 0 of 5/7, by FAILED 1 of 5/7, by NO_OP 0 of 5/7. (5/6 / 4) / (59/21 / 4);
    # the mean of ratios is (−1/4 + 0 + 7/5 + 0) / 4
    "performance_deterioration_elsewhere": (35 / 118, None, 13, 4),
}

DECAO2021_SCORES = {
    **{
        name: STRICT_SCORES[name]
        for name in (
            "no_op_share",
            "equivalence_held_out_wordings",
            "held_out_equivalence",
            "held_out_retain_accuracy",
            "accuracy_before",
            "accuracy_after",
            "performance_deterioration",
        )
    },
    # NO_OP counts here: TAKES yes, STUBBORN no, FAILED no, NO_OP yes; fed the tokens, STUBBORN yes too
    "success_rate": (2 / 4, 2, 4, 4),
    "success_rate_teacher_forced": (3 / 4, 3, 4, 4),
    "inflation_gap": (1 / 4, 1, 4, 4),
    "held_out_success_rate": (1 / 2, 1, 2, 2),
    # as it stands: TAKES 'Charlotte Brontë' only, 1 of 3 (x again is kept); the others 0
    "equivalence_target": (1 / 9, None, 5, 3),
    # as it stands: TAKES 'charlotte brontë.' only, 1 of 3; STUBBORN 1; FAILED 0
    "equivalence_own": (4 / 9, None, 5, 3),
    "equivalence_accuracy": (4 / 9, None, 5, 3),
    # against the target here too, as it stands: TAKES 1 of 2 (x again is kept), STUBBORN 0 of 1
    "equivalence_seen_wordings": (1 / 4, None, 3, 2),
    # TAKES, without q1: near N=3 (q3 of q2 q3 q4) 1/3, far N=4 1: 5/7.
    # STUBBORN, without q3: near N=3 1, far N=4 ('oslo' is not 'Oslo') 1/2: 5/7. FAILED 0, NO_OP 1
    "retain_accuracy": (17 / 28, None, 14, 4),
    # TAKES: near N=3 (q3 q4 of q2 q3 q4) 2/3, far N=4 1: 6/7. The others as in strict: 1/2, 0, 4/7
    "retain_accuracy_gold": (27 / 56, None, 14, 4),
    # TAKES, without q1: near N=3 (q2 lost, q3 kept, q4 gained) 0, far 0. By FAILED 1. Of 5/7 each
    "performance_deterioration_elsewhere": (7 / 20, None, 14, 4),
}
