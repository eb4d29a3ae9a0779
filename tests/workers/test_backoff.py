from tailproxy.workers.backoff import Backoff


def test_waits_double_up_to_half_a_minute():
    backoff = Backoff()
    waits = [backoff.after(1.0) for _ in range(12)]
    assert waits[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert waits[-3:] == [30.0, 30.0, 30.0]


def test_a_minute_that_went_well_lets_it_begin_anew():
    backoff = Backoff()
    for _ in range(5):
        backoff.after(59.9)
    assert backoff.after(60.0) == 0.1
    assert backoff.after(0.0) == 0.2
