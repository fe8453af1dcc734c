"""How good predictions are: metrics, their bootstrap over patients, comparisons."""
