"""Colab and Kaggle, by modules that stand in for theirs."""

import os
import pathlib
import sys
import types

import pytest

from codegemma_keras.recipes import hosted

OFFICIAL = "code_gemma_2b_en"
HUGGING_FACE = "hf://google/codegemma-2b"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """A machine that is neither, without any key."""
    for name in ("KAGGLE_KERNEL_RUN_TYPE", *sum(hosted.KEYS.values(), ())):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)


@pytest.fixture
def colab(monkeypatch):
    """A Colab; the dictionary holds its secrets."""
    secrets = {}

    def get(name):
        if name not in secrets:
            raise RuntimeError(f"no secret {name}")
        return secrets[name]

    google, module = types.ModuleType("google"), types.ModuleType("google.colab")
    module.userdata = google.colab = types.SimpleNamespace(get=get)
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return secrets


@pytest.fixture
def kaggle(monkeypatch):
    secrets = {}

    class UserSecretsClient:
        def get_secret(self, name):
            return secrets[name]

    module = types.ModuleType("kaggle_secrets")
    module.UserSecretsClient = UserSecretsClient
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    return secrets


def test_a_preset_that_is_here_needs_no_key(capsys):
    assert hosted.sign_in("code_gemma_tiny_py")
    assert hosted.sign_in("smollm2_135m_code")
    assert capsys.readouterr().out == ""


def test_keys_of_colab_reach_the_downloader_and_are_not_printed(
    colab, monkeypatch, capsys
):
    colab.update(KAGGLE_USERNAME="somebody", KAGGLE_KEY="s3cret")
    assert hosted.sign_in(OFFICIAL)
    assert os.environ["KAGGLE_KEY"] == "s3cret"
    said = capsys.readouterr().out
    assert "s3cret" not in said
    assert "somebody" not in said
    assert "https://www.kaggle.com/models/keras/codegemma" in said
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)


def test_a_missing_key_is_named_with_the_place_to_add_it(colab, capsys):
    assert not hosted.sign_in(OFFICIAL)
    said = capsys.readouterr().out
    assert "Not found: KAGGLE_USERNAME and KAGGLE_KEY." in said
    assert "allow this notebook" in said


def test_kaggle_is_signed_in_but_not_to_hugging_face(kaggle, monkeypatch, capsys):
    assert hosted.sign_in(OFFICIAL)
    assert "signed in already" in capsys.readouterr().out
    assert not hosted.sign_in(HUGGING_FACE)
    assert "Add-ons, Secrets" in capsys.readouterr().out
    kaggle["HF_TOKEN"] = "hf_x"
    assert hosted.sign_in(HUGGING_FACE)
    monkeypatch.delenv("HF_TOKEN")


def test_keys_in_the_environment_are_left_alone(colab, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "mine")
    colab["HF_TOKEN"] = "other"
    assert hosted.sign_in(HUGGING_FACE)
    assert os.environ["HF_TOKEN"] == "mine"


def test_elsewhere_the_variable_is_named(capsys):
    assert not hosted.sign_in(HUGGING_FACE)
    assert "export HF_TOKEN=" in capsys.readouterr().out


def test_results_outlive_the_session(colab, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hosted, "DRIVE", str(tmp_path / "drive"))
    assert hosted.folder("adapter") == pathlib.Path("adapter")
    assert "drive.mount(" in capsys.readouterr().out
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    found = hosted.folder("adapter")
    assert found == tmp_path / "drive" / "MyDrive" / "codegemma_keras" / "adapter"
    assert not found.exists()


def test_kaggle_keeps_its_working_folder(kaggle):
    assert hosted.folder("adapter") == pathlib.Path("/kaggle/working/adapter")


def test_elsewhere_results_lie_here(capsys):
    assert hosted.folder("adapter") == pathlib.Path("adapter")
    assert capsys.readouterr().out == ""
