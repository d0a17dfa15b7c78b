"""Files of a form (multipart/form-data), from memory."""

from __future__ import annotations

import logging
from typing import Any

from attri.runtime.deliver.sink import SentImage
from attri.runtime.errors import UsageError
from attri.runtime.web.views import plain_text

FORM = "multipart/form-data"


def files_of_form(data: bytes, content_type: str, most: int) -> list[SentImage]:
    """The files of a form, in order; each is called by its file name.

    Args:
        data: The whole body.
        content_type: Of the request, with the boundary.
        most: Files that are taken.

    Raises:
        UsageError: It cannot be read, has a part that is no file, no files, or too many.
    """
    from python_multipart import FormParser
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import parse_options_header

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a line for each invalid form could fill a disk
    files: list[SentImage] = []
    ended: list[bool] = []

    def take(file: Any) -> None:
        if len(files) == most:
            raise UsageError(f"the form has more than {most} files")
        file.file_object.seek(0)
        files.append(SentImage(_text(file.file_name) or _text(file.field_name), file.file_object.read()))

    def refuse(field: Any) -> None:
        name = _text(field.field_name)
        raise UsageError(f"{name} is no file: send images as files, as curl -F image=@photo.jpg does")

    in_memory = {"MAX_MEMORY_FILE_SIZE": len(data) + 1}
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    try:
        parser = FormParser(FORM, refuse, take, lambda: ended.append(True), boundary, config=in_memory)
        parser.write(data)
    except FormParserError as error:
        raise UsageError(f"the form cannot be read: {plain_text(str(error))}") from error
    if not ended:
        raise UsageError("the form cannot be read: it breaks off")
    if not files:
        raise UsageError("the form has no file in it")
    return files


def _text(name: bytes | None) -> str:
    return plain_text((name or b"").decode(errors="replace"))
