"""The form of a question."""

from __future__ import annotations

from django import forms

from tiderace.demo.poll.models import OPTION_LENGTH, QUESTION_LENGTH

_MOST = 6


class QuestionForm(forms.Form):
    """A question and its options, each on a line."""

    text = forms.CharField(label="Question", max_length=QUESTION_LENGTH)
    options = forms.CharField(
        label="Options, each on a line", widget=forms.Textarea(attrs={"rows": 4})
    )

    def clean_options(self) -> list[str]:
        """Return the options."""
        lines = [line.strip() for line in self.cleaned_data["options"].splitlines()]
        options = list(dict.fromkeys(line for line in lines if line))
        if not 2 <= len(options) <= _MOST:
            raise forms.ValidationError(f"Enter 2 to {_MOST} different options.")
        if any(len(option) > OPTION_LENGTH for option in options):
            raise forms.ValidationError(f"Use at most {OPTION_LENGTH} characters each.")
        return options
