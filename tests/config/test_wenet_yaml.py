from k2distil.config.wenet_yaml import duration_limits, is_wenet_yaml


def test_filter_conf_counts_in_frames_of_ten_milliseconds():
    limits = duration_limits(
        {"dataset_conf": {"filter_conf": {"max_length": 3000, "min_length": 50}}}
    )
    assert limits.reason(0.4) is not None
    assert limits.reason(0.5) is None
    assert limits.reason(30.0) is None
    assert "31.00 s is outside filter_conf's 0.5 to 30 s" in str(limits.reason(31.0))


def test_without_filter_conf_nothing_is_dropped():
    for tree in (None, {}, {"dataset_conf": {}}, {"dataset_conf": None}):
        assert duration_limits(tree).reason(1e6) is None


def test_ours_is_not_taken_for_a_wenet_yaml():
    assert is_wenet_yaml({"encoder_conf": {}})
    assert not is_wenet_yaml({"encoder_type": "hubert", "dtype": "float32"})
