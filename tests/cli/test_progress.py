"""What a person sees of a job's output."""

from pipeline.cli.output import printable


def test_a_jobs_output_cannot_command_the_terminal():
    assert (
        printable("\x1b[31mred\x1b[0m \x1b]0;title\x07 a\tb")
        == "red \N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER} a\tb"
    )
    assert len(printable("x" * 100_000)) < 2000
