"""The loss: focal loss with class weights and smoothing, R-Drop, mixup, and the objective that composes them over a global batch."""
