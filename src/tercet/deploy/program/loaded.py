"""An exported program, ready to be asked; it is as safe to load as whoever made it is to trust.

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
from tercet.deploy.outputs import Output, computed, require_answer, require_fields, unusable
from tercet.deploy.program.archive import quiet, read_document
from tercet.ground.errors import DataError, MemoryExhausted, ModelError, starved


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

        Loading can run code that the file brings along, as with any program of `torch.export`.

        Raises:
            ModelError: It is another kind of file, is damaged, or does not run.
            MemoryExhausted: There is no memory for it.
        """
        try:
            with open_regular(Path(path)) as stream:
                document = read_document(stream, path)
                require_fields(document, path)
                stream.seek(0)
                with quiet():
                    program: Any = torch.export.load(stream).module()
        except DataError as error:
            raise ModelError(str(error)) from error
        except ModelError:
            raise
        except Exception as error:  # the archive's reader and the graph's have no exception of their own
            if starved(error):
                raise MemoryExhausted(f"no memory to load {path}") from error
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
        named = computed(lambda: self._computed(images), images, self.path)
        try:
            output = Output(named["probabilities"], named["members"], named.get("chosen"))
        except KeyError as error:
            raise ModelError(f"{self.path} does not give {error}: export the bundle again") from error
        require_answer(output, len(images), len(self.member_names), len(self.classes), self.path)
        return output

    @torch.inference_mode()
    def _computed(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        return {name: value.numpy() for name, value in self._program(torch.tensor(images)).items()}
