"""What all sections of a policy have in common."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A frozen section; the text under each field is what an editor shows of it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
