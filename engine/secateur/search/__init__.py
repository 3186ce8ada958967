"""From a budget to the best architecture: space, costs, evaluator, predictor, sampler, study."""
