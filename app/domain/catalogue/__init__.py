"""What each Gemini image model can do and costs, and its other names.

The facts are Google's as of 2026-11-23; each module names its sources. Settings can add models and aliases, so that a
new model or price needs no new release. Requests to a model that is not listed are passed on unchecked.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.domain.catalogue.aliases import ALIASES, Alias
from app.domain.catalogue.model import IMAGE_SIZES, MODEL_ID_PATTERN, Model, Prices, unlisted
from app.domain.catalogue.models import MODELS

__all__ = ["IMAGE_SIZES", "MODEL_ID_PATTERN", "Alias", "Catalogue", "Model", "Prices", "ResolvedModel"]

_READ_MODEL: TypeAdapter[Model] = TypeAdapter(Model)


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    model: Model
    warnings: tuple[str, ...] = ()


class Catalogue:
    def __init__(
        self,
        default: str,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Combine the built-in models and aliases with those of the settings.

        Args:
            default: id or alias of the model for requests that name none.
            models: by id, the fields that differ from the built-in model of that id, or from the model in `like`.
            aliases: model ids by alias.

        Raises:
            ValueError: a model has an invalid field.
        """
        self.models = {model.id: model for model in MODELS}
        for id_, changes in (models or {}).items():
            self.models[id_] = self._override(id_, dict(changes))
        self.aliases = {alias.name: alias for alias in ALIASES if alias.name not in self.models}
        self.aliases |= {name: Alias(name, target) for name, target in (aliases or {}).items()}
        self.default = self.resolve(default).model.id

    @property
    def largest_image(self) -> int:
        """Pixels of the largest image that a model of the catalogue draws."""
        sizes = [size for model in self.models.values() for row in model.pixels.values() for size in row.values()]
        return max((width * height for width, height in sizes), default=0)

    @property
    def deprecated(self) -> tuple[str, ...]:
        """Ids of the models that Google has announced to shut down."""
        return tuple(model.id for model in self.models.values() if model.status == "deprecated")

    def resolve(self, name: str) -> ResolvedModel:
        """Return the model with this id or alias, and warnings for the caller about the name."""
        warnings: list[str] = []
        id_ = name
        if (alias := self.aliases.get(name)) is not None:
            id_ = alias.target if alias.target in self.models else self._follow_aliases(alias)
            warnings.append(replace(alias, target=id_).warning())
        model = self.models.get(id_)
        if model is None:
            return ResolvedModel(
                unlisted(id_), (*warnings, f"{id_} is not in this service's catalogue, so the request was not checked.")
            )
        if model.status == "deprecated":
            warnings.append(model.deprecation())
        return ResolvedModel(model, tuple(warnings))

    def _follow_aliases(self, alias: Alias) -> str:
        """Return the target of a chain of aliases. A circular chain ends where it would repeat."""
        seen = {alias.name}
        while alias.target in self.aliases and alias.target not in seen:
            alias = self.aliases[alias.target]
            seen.add(alias.name)
        return alias.target

    def _override(self, id_: str, changes: dict[str, Any]) -> Model:
        like = changes.pop("like", id_)
        base = self.models.get(like) if isinstance(like, str) else None
        if base is None and like != id_:
            raise ValueError(f"{id_}: `like` names an unknown model, {like!r}")
        description = asdict(base or unlisted(id_))
        for part, value in changes.items():
            if part == "prices" and isinstance(value, Mapping):
                description["prices"] |= value
            else:
                description[part] = value
        try:
            return _READ_MODEL.validate_python(description | {"id": id_, "is_known": True})
        except ValidationError as error:
            wrong = (".".join(map(str, (id_, *one["loc"]))) + f": {one['msg']}" for one in error.errors())
            raise ValueError("; ".join(wrong)) from error
