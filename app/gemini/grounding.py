"""What Gemini looked up, for the caller to show."""

from app.domain.generation import Grounding, GroundingSupport, ImageSource, WebSource
from app.gemini import response_schema


def read(metadata: response_schema.GroundingMetadata | None) -> Grounding | None:
    """The queries, sources and suggestions of an answer.

    `GroundingSupport.source_indices` count Gemini's chunks, web and image ones together, in the order of `sources`
    followed by `image_sources`, as long as Gemini does not mix them; they are translated where it does.
    """
    if metadata is None:
        return None
    # What cannot be read keeps its place: the supports count it.
    chunks = [chunk or response_schema.Chunk() for chunk in metadata.grounding_chunks or []]
    web = [index for index, chunk in enumerate(chunks) if chunk.web]
    images = [index for index, chunk in enumerate(chunks) if chunk.image and not chunk.web]
    places = {index: place for place, index in enumerate([*web, *images])}
    return Grounding(
        queries=tuple(_queries(metadata)),
        sources=tuple(WebSource(title=chunk.web.title or "", uri=chunk.web.uri or "") for chunk in chunks if chunk.web),
        image_sources=tuple(
            ImageSource(
                title=chunk.image.title or "",
                source_uri=chunk.image.source_uri or "",
                image_uri=chunk.image.image_uri or "",
                domain=chunk.image.domain or "",
            )
            for chunk in chunks
            if chunk.image and not chunk.web
        ),
        supports=tuple(_support(support, places) for support in metadata.grounding_supports or [] if support),
        search_suggestions_html=metadata.search_entry_point.rendered_content if metadata.search_entry_point else None,
    )


def billed_queries(metadata: response_schema.GroundingMetadata | None) -> int:
    """Google bills each query, and one prompt may run several. Empty ones have been seen in the list."""
    return len(_queries(metadata)) if metadata else 0


def _queries(metadata: response_schema.GroundingMetadata) -> list[str]:
    return [query for query in (metadata.web_search_queries or []) + (metadata.image_search_queries or []) if query]


def _support(support: response_schema.Support, places: dict[int, int]) -> GroundingSupport:
    segment = support.segment or response_schema.Segment()
    return GroundingSupport(
        text=segment.text or "",
        start_index=segment.start_index or 0,
        end_index=segment.end_index or 0,
        source_indices=tuple(places[index] for index in support.grounding_chunk_indices or [] if index in places),
    )
