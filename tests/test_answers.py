"""Answers to Copier's questions: what would break a manifest is refused, what is odd is fine."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from tests.rendering import OLDEST_LONG, ROOT, TEMPLATES, manifest, questions, render

HOSTILE = [
    'a "quoted" word',
    "back\\slash",
    "dollar $HOME",
    "`id`",
    "two\nlines",
    "tab\there",
    "\x07bell",
    "line\u2028separator",
    "return\rhere",
]
FINE = [
    "",
    "It's the café's agent",
    "契約について答える",
    "50 % off: a, b & c; <d> #1",
    "'single'",
    "- dash: yes",
]
NO_LABEL = [
    "",
    "-a",
    "a-",
    "1a",
    "Aa",
    "a_b",
    "a.b",
    "a b",
    "ä",
    "a" * 60,
    "a\n",
    "a/b",
    "../x",
    "k8s",
]


@pytest.mark.parametrize("name", NO_LABEL)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_project_name_that_is_no_host_name_is_refused_in_a_sentence(template, name, tmp_path):
    with pytest.raises(RuntimeError, match=r"project_name|must be set"):
        render(ROOT / template, tmp_path / "app", project_name=name)
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize("name", ["a", "on", "null", "my-agent", "a1", "a" * 59])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_host_name_is_taken(template, name, tmp_path):
    assert (render(ROOT / template, tmp_path / "app", project_name=name) / name).is_dir()


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("template", TEMPLATES)
def test_what_would_break_a_manifest_is_refused_in_every_text(template, text, tmp_path):
    texts = [
        name
        for name, q in questions(template).items()
        if q["type"] == "str" and q.get("when") is not False
    ]
    for n, name in enumerate(texts):
        with pytest.raises(RuntimeError, match=name):
            render(ROOT / template, tmp_path / str(n), **{name: text})
        assert not (tmp_path / str(n)).exists()


@pytest.mark.parametrize("version", OLDEST_LONG)
@pytest.mark.parametrize("text", FINE)
@pytest.mark.parametrize("template", TEMPLATES)
def test_odd_but_harmless_descriptions_arrive_as_they_were_given(template, text, version, tmp_path):
    to = render(
        ROOT / template,
        tmp_path / "app",
        version=version,
        project_name="odd",
        project_description=text,
    )
    for path in to.rglob("*.y*ml"):
        yaml.safe_load(path.read_text())
    answers = yaml.safe_load((to / ".copier-answers.yml").read_text())
    assert answers["project_description"] == text
    found = re.search(
        r'^PROJECT_DESCRIPTION="(.*)"$', (to / "odd" / "app.env").read_text(), re.MULTILINE
    )
    assert found[1] == text


@pytest.mark.parametrize("template", TEMPLATES)
def test_parameters_reach_the_app(template, tmp_path):
    names = [parameter["name"] for parameter in manifest(template)["parameters"]]
    answers = {name: f"value-of-{name}" for name in names}
    to = render(ROOT / template, tmp_path / "app", project_name="given", **answers)
    env = (to / "given" / "app.env").read_text()
    assert all(f'{name.upper()}="value-of-{name}"' in env for name in names)


def test_make_render_takes_answers_from_a_file(tmp_path):
    (tmp_path / "answers.yml").write_text("project_name: from-a-file\n")
    command = [
        "make",
        "render",
        "TEMPLATE=tkt-rag-agent",
        f"DEST={tmp_path / 'app'}",
        f"DATA={tmp_path / 'answers.yml'}",
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    assert (tmp_path / "app" / "from-a-file" / "app.py").exists()


@pytest.mark.parametrize("template", TEMPLATES)
def test_pytest_copie_renders_it_too(copie, template):
    """It always trusts, so it proves nothing about trust; the tests above use plain Copier."""
    answers = {"template": template, "project_name": "copied"}
    result = copie.copy(template_dir=ROOT, extra_answers=answers)
    assert result.exit_code == 0, result.exception
    assert (result.project_dir / "copied" / "agent" / "__init__.py").exists()
