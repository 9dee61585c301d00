"""An exported program, ready to be asked: the file that `torch.export.load` reads, behind the checks of `archive`.

Shapes: B images, H x W pixels, M members, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tercet.data.images import open_regular
from tercet.deploy.export.tracing import quiet
from tercet.deploy.exported import Output, require_answer, require_fields, require_images, unusable
from tercet.deploy.program.archive import check
from tercet.ground.errors import DataError, MemoryExhausted, ModelError


class LoadedProgram:
    """An exported ensemble that PyTorch computes; make one with `load`.

    Args:
        program: From images to the outputs by name.
        metadata: What the file says of itself.
        path: Where it came from, for messages.
    """

    def __init__(
        self, program: Callable[[Tensor], Mapping[str, Tensor]], metadata: Mapping[str, Any], path: Path
    ) -> None:
        self._program, self.path = program, path
        self.metadata: Mapping[str, Any] = metadata
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        self.member_names: tuple[str, ...] = tuple(member["name"] for member in metadata["members"])

    @classmethod
    def load(cls, path: str | Path) -> LoadedProgram:
        """Load a file that `tercet export --format torch` wrote, and let it answer for one black image.

        Raises:
            ModelError: It is another kind of file, is damaged, would do more than compute, or does not run.
        """
        try:
            with open_regular(Path(path)) as stream:
                document = check(stream, path)
                require_fields(document, path)
                stream.seek(0)
                with quiet():
                    program: Any = torch.export.load(stream).module()
        except DataError as error:
            raise ModelError(str(error)) from error
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # the archive's reader and the graph's have no exception of their own
            raise unusable(path, error) from error
        model = cls(program, document, Path(path))
        model.run(np.zeros((1, 8, 8, 3), dtype=np.uint8))
        return model

    def run(self, images: NDArray[np.uint8]) -> Output:
        """Answer for images B H W 3 of one size.

        Raises:
            DataError: They have another shape or type.
            ModelError: The answer is not finite, or the program cannot answer.
            MemoryExhausted: There is no memory for so many pixels.
        """
        require_images(images)
        try:
            with torch.inference_mode():
                named = {name: value.numpy() for name, value in self._program(torch.tensor(images)).items()}
        except Exception as error:
            if isinstance(error, MemoryError) or "alloc" in str(error):
                raise MemoryExhausted(
                    f"no memory to answer for images {images.shape}: give fewer or smaller ones"
                ) from error
            raise unusable(self.path, error) from error
        try:
            output = Output(named["probabilities"], named["members"], named.get("chosen"))
        except KeyError as error:
            raise ModelError(f"{self.path} does not give {error}: export the bundle again") from error
        require_answer(output, len(images), len(self.member_names), len(self.classes), self.path)
        return output
