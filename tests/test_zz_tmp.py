def test_x(trained): print(trained)
