"""The five routing defects of vulcand that were shown by running it: none of them here.

Each test has the route table that goes wrong there.
"""

from tests.routing.tables import winner


def test_1_a_longer_conjunction_does_not_hide_a_shorter_one() -> None:
    routes = ["Host(`h`) && Path(`/p`)", "Host(`h`) && Method(`GET`) && Path(`/p`)"]
    assert winner(routes, host="h", path="/p", method="POST") == 0
    assert winner(routes, host="h", path="/p", method="GET") == 1


def test_1_host_and_method_beside_host_and_path() -> None:
    routes = ["Host(`h`) && Method(`PUT`)", "Host(`h`) && Path(`/p`)"]
    assert winner(routes, host="h", path="/p", method="GET") == 1
    assert winner(routes, host="h", path="/q", method="PUT") == 0


def test_2_an_int_parameter_matches_as_the_last_segment() -> None:
    assert winner(["Path(`/users/<int:id>`)"], path="/users/42") == 0
    assert winner(["Path(`/users/<int:id>`)"], path="/users/42/") is None
    assert winner(["Path(`/users/<int:id>`)"], path="/users/x") is None


def test_3_a_literal_beats_a_parameter_however_the_nodes_merge() -> None:
    routes = ["Path(`/v1/foo`)", "Path(`/v1/<x>`)", "Path(`/v1/<x>/a`)"]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]):
        table = [routes[i] for i in order]
        assert winner(table, path="/v1/foo") == order.index(0)
        assert winner(table, path="/v1/bar") == order.index(1)
        assert winner(table, path="/v1/foo/a") == order.index(2)
    assert winner(["Path(`/v1/<x>`)", "Path(`/v1/1`)"], path="/v1/1") == 1


def test_4_a_route_with_a_host_beats_one_without() -> None:
    routes = ["Path(`/foo`)", "Host(`a`) && Path(`/foo`)"]
    assert winner(routes, host="a", path="/foo") == 1
    assert winner(routes, host="b", path="/foo") == 0


def test_5_a_parameter_at_the_end_of_a_host_takes_only_the_host() -> None:
    routes = ["Host(`x.<tld>`) && Method(`GET`)", "Host(`x.<tld>`) && Method(`POST`) && Path(`/p`)"]
    assert winner(routes, host="x.com", method="GET") == 0
    assert winner(routes, host="x.com", method="POST", path="/p") == 1
    assert winner(routes, host="x.com", method="POST", path="/q") is None
