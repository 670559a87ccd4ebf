"""What a user mistypes: the nearest word is named."""

import pytest

from models.compare import command_line as compare
from models.evaluate import command_line as evaluate
from models.train import command_line as train


@pytest.mark.parametrize(
    "command, arguments, hint",
    [
        (train, ["basecn_2_cc", "--data", "digits"], "did you mean basecnn_2_cc?"),
        (train, ["basecnn_2_cc", "--data", "digit"], "did you mean digits?"),
        (train, ["basecnn_2_cc", "--data", "digits", "--epohcs", "2"], "did you mean --epochs?"),
        (train, ["basecnn_2_cc", "--data", "digits", "--amp", "bf61"], "did you mean bf16?"),
        (evaluate, ["run", "--data", "cifar"], "did you mean cifar10"),
        (compare, ["--suite", "tabel2", "--data", "digits"], "did you mean table2?"),
    ],
)
def test_the_nearest_word_is_named(command, arguments, hint, capsys):
    with pytest.raises(SystemExit) as ended:
        command().parse_args(arguments)
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err


def test_a_word_that_is_near_to_none(capsys):
    with pytest.raises(SystemExit):
        train().parse_args(["zzzzzzzzzz", "--data", "digits"])
    assert "did you mean" not in capsys.readouterr().err
