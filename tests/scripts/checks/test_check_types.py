"""scripts/checks/check_types.py: the repository as a package of links. What mypy says of it is told in CI."""

from qnet.scripts.checks.check_types import LINKS, PARTS, link


def test_links_are_made_and_made_anew(tmp_path):
    for part in ("qnet", *PARTS):
        (tmp_path / part).mkdir()
    (tmp_path / "qnet/command.py").write_text("x = 1\n", encoding="utf-8")
    package = tmp_path / LINKS / "qnet"
    package.mkdir(parents=True)
    (package / "util").symlink_to("elsewhere")
    for _ in range(2):
        link(tmp_path)
        assert {path.name for path in package.iterdir()} == {"command.py", *PARTS}
        assert all((package / part).samefile(tmp_path / part) for part in PARTS)
    assert (package / "command.py").read_text(encoding="utf-8") == "x = 1\n"
