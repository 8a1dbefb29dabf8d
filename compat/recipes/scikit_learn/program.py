"""A grid search, a cross-validation and a permutation test on two processes."""

from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score, permutation_test_score
from sklearn.svm import SVC

if __name__ == "__main__":
    X, y = load_iris(return_X_y=True)
    search = GridSearchCV(SVC(), {"C": [0.1, 1, 10], "gamma": [0.1, 1]}, n_jobs=2).fit(X, y)
    print(search.best_params_, search.cv_results_["mean_test_score"].round(6))
    print(cross_val_score(SVC(), X, y, n_jobs=2).round(6))
    score, scores, p = permutation_test_score(SVC(), X, y, n_permutations=20, n_jobs=2, random_state=0)
    print(round(score, 6), scores.round(6), round(p, 6))
