"""Sealing trained members: XGBoost's and scikit-learn's trees -> the service's flat forest, with the leaf tables for
exact reasons; a logistic regression -> coefficients folded with its scaling. Each is proved equal before it is sealed.
"""

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost as xgb

from fraud_api_lambda.errors import BundleRefused
from fraud_api_lambda.features import Floats
from fraud_api_lambda.model import MAX_DEPTH, Forest, LeafTable, Linear, Part, Singles, Values

#: A path's knowledge of one feature: low, high, whether a missing value passes, product of cover shares.
_Test = tuple[float, float, bool, float]


def flatten(booster: xgb.Booster, width: int) -> Forest:
    """The booster's trees over ``width`` features. Raises ``BundleRefused`` for a booster of another kind."""
    whole = json.loads(booster.save_raw("json"))
    learner = whole["learner"]
    model = learner["gradient_booster"]
    if model["name"] != "gbtree" or learner["objective"]["name"] != "binary:logistic":
        raise BundleRefused("Only binary:logistic models of gbtree can be sealed.")
    if not model["model"]["trees"]:
        raise BundleRefused("A model without a tree cannot be sealed.")
    if any(weight != 1 for weight in model["model"].get("weight_drop") or ()):
        raise BundleRefused("A model with dropout weights its trees; only plain ones can be sealed.")
    bias = _bias(whole, width)
    trees = [
        _breadth_first(
            left=tree["left_children"],
            right=tree["right_children"],
            feature=tree["split_indices"],
            value=tree["split_conditions"],
            missing_left=tree["default_left"],
            cover=tree["sum_hessian"],
        )
        for tree in model["model"]["trees"]
    ]
    return _joined(trees, width, bias, np.float32)


def flatten_isolation(estimator: Any, width: int) -> Forest:
    """A fitted ``sklearn.ensemble.IsolationForest`` over all ``width`` features as a flat forest.

    Its margin is minus the mean path length, in units of the mean path length of as many random values as each tree saw
    (Liu, Ting, Zhou 2008): higher is more anomalous, and ``log2(-score_samples)`` is the very same number. Raises
    ``BundleRefused`` for trees deeper than the leaf tables allow.
    """
    unit = len(estimator.estimators_) * float(mean_path_length(np.array([estimator.max_samples_]))[0])
    trees = []
    for single, picked in zip(estimator.estimators_, estimator.estimators_features_, strict=True):
        tree = single.tree_
        if tree.max_depth > MAX_DEPTH:
            raise BundleRefused(
                f"A tree is deeper than {MAX_DEPTH}; train with max_samples of {1 << MAX_DEPTH} at most."
            )
        left, right = tree.children_left.tolist(), tree.children_right.tolist()
        depth = [0] * tree.node_count
        for node in range(tree.node_count):  # scikit-learn numbers parents before their children
            for below in (left[node], right[node]) if left[node] >= 0 else ():
                depth[below] = depth[node] + 1
        length = np.array(depth) + mean_path_length(tree.n_node_samples)
        inner = tree.children_left >= 0
        trees.append(
            _breadth_first(
                left=left,
                right=right,
                feature=np.where(inner, np.asarray(picked)[np.maximum(tree.feature, 0)], 0).tolist(),
                value=np.where(inner, _above(tree.threshold), -length / unit).tolist(),
                missing_left=[False] * tree.node_count,
                cover=tree.n_node_samples.tolist(),
            )
        )
    return _joined(trees, width, 0.0, np.float64)


def mean_path_length(samples: npt.NDArray[Any]) -> Floats:
    """Mean depth at which a binary search tree of so many random values fails to find one, (n,) -> (n,)."""
    n = np.maximum(samples.astype(np.float64), 2.0)
    length = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(samples <= 1, 0.0, np.where(samples == 2, 1.0, length))


def _above(threshold: Floats) -> Floats:
    """scikit-learn goes left where ``x <= threshold``, we where ``x < value``: the least float32 above."""
    single = threshold.astype(np.float32)
    up: Floats = np.where(single > threshold, single, np.nextafter(single, np.float32(np.inf))).astype(np.float64)
    return up


def fold(*, intercept: float, coef: Floats, centre: Floats, scale: Floats, low: Floats, high: Floats) -> Linear:
    """A logistic regression over ``(clip(x, low, high) - centre) / scale`` as one over x itself."""
    own = coef / scale
    # math.fsum: what is folded here is added once, and exactly.
    return Linear(
        intercept=math.fsum([intercept, *(-own * centre).tolist()]), coef=own, low=low, high=high, mean=centre
    )


def _joined(trees: list[dict[str, npt.NDArray[Any]]], width: int, bias: float, dtype: type[np.floating[Any]]) -> Forest:
    offsets = np.cumsum([0, *(len(tree["feature"]) for tree in trees)])
    joined = {
        name: np.concatenate([tree[name] for tree in trees]) for name in ("feature", "value", "missing_left", "cover")
    }
    child = np.concatenate([tree["child"] + offset for tree, offset in zip(trees, offsets, strict=False)])
    root = offsets[:-1].astype(np.int32)
    feature = joined["feature"].astype(np.int32)
    value = joined["value"].astype(dtype)
    missing_left = joined["missing_left"].astype(bool)
    tables, mean = _leaf_tables(root, feature, value, child, missing_left, joined["cover"])
    return Forest(
        width=width,
        bias=bias,
        expected=bias + mean,
        root=root,
        feature=feature,
        value=value,
        child=child.astype(np.int32),
        missing_left=missing_left,
        tables=tables,
    )


def _bias(whole: dict[str, Any], width: int) -> float:
    """The margin before any tree, as XGBoost itself computes it: what it predicts when every leaf is worth nothing.

    The model file holds it as a probability; taking its log-odds here could round differently by one place.
    """
    empty = json.loads(json.dumps(whole))
    for tree in empty["learner"]["gradient_booster"]["model"]["trees"]:
        leaf = np.array(tree["left_children"]) < 0
        tree["split_conditions"] = np.where(leaf, 0.0, tree["split_conditions"]).tolist()
    bare = xgb.Booster({"nthread": 1})
    bare.load_model(bytearray(json.dumps(empty).encode()))
    return float(bare.inplace_predict(np.zeros((1, width), np.float32), predict_type="margin")[0])


def _breadth_first(
    *, left: list[int], right: list[int], feature: list[int], value: list[float], missing_left: list[Any],
    cover: list[float],
) -> dict[str, npt.NDArray[Any]]:  # fmt: skip
    """One tree renumbered so that children follow their parents; ``child`` as in ``Forest``, within the tree."""
    order, place = [0], {0: 0}
    for node in order:
        for below in (left[node], right[node]) if left[node] >= 0 else ():
            place[below] = len(order)
            order.append(below)
    child = [place[c] if left[node] >= 0 else place[node] for node in order for c in (right[node], left[node])]
    return {
        "feature": np.array([feature[node] if left[node] >= 0 else 0 for node in order]),
        "value": np.array([value[node] for node in order]),
        "missing_left": np.array([bool(missing_left[node]) for node in order]),
        "cover": np.array([cover[node] for node in order], np.float64),
        "child": np.array(child, np.int64),
    }


def _leaf_tables(
    root: npt.NDArray[np.int32],
    feature: npt.NDArray[np.int32],
    value: Values,
    child: npt.NDArray[np.int64],
    missing_left: npt.NDArray[np.bool_],
    cover: npt.NDArray[np.float64],
) -> tuple[list[LeafTable], float]:
    """Every leaf's contributions for every pattern of its conditions, and the forest's mean value by cover."""
    leaves: dict[int, list[tuple[list[int], list[_Test], float]]] = {}
    mean = 0.0
    for start in root.tolist():
        stack: list[tuple[int, dict[int, _Test]]] = [(start, {})]
        while stack:
            node, path = stack.pop()
            right, left = int(child[2 * node]), int(child[2 * node + 1])
            if left == node:
                tests = list(path.values())
                mean += float(value[node]) * math.prod(test[3] for test in tests)
                if len(tests) > MAX_DEPTH:
                    raise BundleRefused(f"A tree is deeper than {MAX_DEPTH}; train with a smaller max_depth.")
                if tests:
                    leaves.setdefault(len(tests), []).append((list(path), tests, float(value[node])))
                continue
            tested, threshold, to_left = int(feature[node]), float(value[node]), bool(missing_left[node])
            low, high, passes, share = path.get(tested, (-math.inf, math.inf, True, 1.0))
            stack.append(
                (
                    left,
                    {
                        **path,
                        tested: (low, min(high, threshold), passes and to_left, share * cover[left] / cover[node]),
                    },
                )
            )
            stack.append(
                (
                    right,
                    {
                        **path,
                        tested: (max(low, threshold), high, passes and not to_left, share * cover[right] / cover[node]),
                    },
                )
            )
    tables = []
    for _, group in sorted(leaves.items()):
        shares = np.array([[test[3] for test in tests] for _, tests, _ in group])
        values = np.array([leaf_value for _, _, leaf_value in group])
        tables.append(
            LeafTable(
                feature=np.array([names for names, _, _ in group], np.int32),
                low=np.array([[test[0] for test in tests] for _, tests, _ in group], np.float32),
                high=np.array([[test[1] for test in tests] for _, tests, _ in group], np.float32),
                missing=np.array([[test[2] for test in tests] for _, tests, _ in group], np.bool_),
                table=_shapley(shares, values).astype(np.float32),
            )
        )
    return tables, mean


def _shapley(shares: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Contributions (L, 2^m, m) of L leaves with cover shares (L, m) and values (L,).

    A leaf's game pays ``value * prod(holds of the coalition) * prod(shares of the others)``. The Shapley value of
    player i is ``value * (holds_i - share_i) * sum over k of k!(m-1-k)!/m! * e_k``, e_k the part of
    ``prod over j != i of (share_j + holds_j * y)`` with y to the power k (Lundberg et al. 2020, algorithm 2).
    """
    count, players = shares.shape
    holds = ((np.arange(1 << players)[:, None] >> np.arange(players)) & 1).astype(np.float64)
    weights = [math.factorial(k) * math.factorial(players - 1 - k) / math.factorial(players) for k in range(players)]
    out = np.empty((count, 1 << players, players))
    for player in range(players):
        powers = np.zeros((count, 1 << players, players))
        powers[:, :, 0] = 1.0
        for other in range(players):
            if other == player:
                continue
            grown = powers * shares[:, None, other : other + 1]
            grown[:, :, 1:] += powers[:, :, :-1] * holds[None, :, other : other + 1]
            powers = grown
        gain = holds[None, :, player] - shares[:, None, player]
        out[:, :, player] = values[:, None] * gain * (powers @ np.array(weights))
    return out


def check_parity(forest: Part, booster: xgb.Booster, rows: Singles) -> None:
    """Refuse to seal a forest whose margins differ from XGBoost's by a single bit on ``rows`` (n, width)."""
    theirs = booster.inplace_predict(rows, predict_type="margin", missing=np.nan).astype(np.float64)
    differ = int((forest.margins(rows) != theirs).sum())
    if differ:
        raise BundleRefused(f"The forest's margins differ from XGBoost's on {differ} of {len(rows)} rows; not sealed.")


def check_near(part: Part, theirs: Floats, rows: Singles, tolerance: float) -> None:
    """Refuse to seal a member whose margins on ``rows`` lie further than ``tolerance`` from its estimator's.

    Of a linear member the tolerance is relative to what is added: cancelling large terms costs both of them the same
    places.
    """
    size = 1.0
    if isinstance(part, Linear):
        size = max(1.0, float((np.abs(part.coef) * np.maximum(np.abs(part.low), np.abs(part.high))).sum()))
    apart = float(np.abs(part.margins(rows) - theirs).max())
    if not apart <= tolerance * size:
        raise BundleRefused(f"A member's margins differ from scikit-learn's by {apart:.1e}; not sealed.")
