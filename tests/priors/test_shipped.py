import pytest

from arcvq import pretrained
from arcvq.images import load_images
from arcvq.priors import bits_per_token, encode_split, load_pretrained


def test_the_prior_of_digits_costs_the_bits_of_its_card():
    model = pretrained.load("digits_samp")
    prior = load_pretrained("digits_samp")
    prior.check_model(model)
    test = encode_split(model, load_images("digits", device="cpu").test)
    figures = pretrained.card("digits_samp/prior")["figures"]
    measured = bits_per_token(prior, test.tokens, test.labels)
    assert measured == pytest.approx(figures["bits_per_token"], abs=0.01)


def test_a_model_without_a_prior_says_so():
    with pytest.raises(FileNotFoundError, match="no pretrained model 'digits/prior'"):
        load_pretrained("digits")
