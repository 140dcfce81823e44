"""What the guides show of the services is what the services take."""

import re
from pathlib import Path

import msgspec

from services.events import Letter, MailCommand

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"


def test_the_letter_that_is_shown_is_one():
    [shown] = re.findall(r"```json\n(.*?)```", (GUIDES / "mail_and_audit.md").read_text(encoding="utf-8"), re.DOTALL)
    assert isinstance(msgspec.json.decode(shown, type=MailCommand), Letter)
