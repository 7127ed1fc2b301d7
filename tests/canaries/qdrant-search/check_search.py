"""Nearest points by the way of old, with Qdrant's own local mode."""

from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams


def test_the_nearest_point_is_found() -> None:
    client = QdrantClient(":memory:")
    client.create_collection("words", VectorParams(size=2, distance=Distance.COSINE))
    points = [PointStruct(id=1, vector=[0.0, 1.0]), PointStruct(id=2, vector=[1.0, 0.0])]
    client.upsert("words", points)
    found = client.search("words", [0.1, 0.9], limit=1)
    assert [point.id for point in found] == [1]
