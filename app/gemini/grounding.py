"""Convert Google's grounding metadata to a `Grounding`: queries, sources and search suggestions."""

from app.domain.generation import Grounding, GroundingSupport, ImageSource, WebSource
from app.gemini.response_schema import Chunk, GroundingMetadata, Segment, Support


def to_grounding(metadata: GroundingMetadata | None) -> Grounding | None:
    """Return the queries, sources and suggestions of a response.

    Gemini has one list for web and image sources, and its supports refer to sources by their index in that list.
    `GroundingSupport.source_indices` refer to `sources` followed by `image_sources`.
    """
    if metadata is None:
        return None
    # A chunk that could not be parsed keeps its index, because supports refer to indices.
    chunks = [chunk or Chunk() for chunk in metadata.grounding_chunks or []]
    web = {index: chunk.web for index, chunk in enumerate(chunks) if chunk.web}
    images = {index: chunk.image for index, chunk in enumerate(chunks) if chunk.image and not chunk.web}
    new_indices = {index: new for new, index in enumerate([*web, *images])}
    return Grounding(
        queries=tuple(_queries(metadata)),
        sources=tuple(WebSource(title=source.title or "", uri=source.uri or "") for source in web.values()),
        image_sources=tuple(
            ImageSource(
                title=source.title or "",
                source_uri=source.source_uri or "",
                image_uri=source.image_uri or "",
                domain=source.domain or "",
            )
            for source in images.values()
        ),
        supports=tuple(_to_support(support, new_indices) for support in metadata.grounding_supports or [] if support),
        search_suggestions_html=metadata.search_entry_point.rendered_content if metadata.search_entry_point else None,
    )


def billed_queries(metadata: GroundingMetadata | None) -> int:
    """Return the number of search queries. Google bills each; one prompt can run several.

    Empty queries, which Gemini sometimes lists, do not count.
    """
    return len(_queries(metadata)) if metadata else 0


def _queries(metadata: GroundingMetadata) -> list[str]:
    return [query for query in (metadata.web_search_queries or []) + (metadata.image_search_queries or []) if query]


def _to_support(support: Support, new_indices: dict[int, int]) -> GroundingSupport:
    segment = support.segment or Segment()
    return GroundingSupport(
        text=segment.text or "",
        start_index=segment.start_index or 0,
        end_index=segment.end_index or 0,
        source_indices=tuple(
            new_indices[index] for index in support.grounding_chunk_indices or [] if index in new_indices
        ),
    )
