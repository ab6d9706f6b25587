import yaml

from rac.yaml_nodes import nodes


def test_every_node_is_there_once():
    text = "a: &x [1, {b: !f c}]\nd: *x\ne: [*x]\n"
    found = [node.value for node in nodes(yaml.compose(text)) if not isinstance(node.value, list)]
    assert sorted(found) == ["1", "a", "b", "c", "d", "e"]
    assert list(nodes(yaml.compose(""))) == []


def test_a_node_that_holds_itself_ends():
    assert len(list(nodes(yaml.compose("&x [*x, 1]")))) == 2
