# SPDX-License-Identifier: Apache-2.0
"""Which pages there are, and in which order: (file of the repository, page of the site, name in the menu)."""

SECTIONS: list[tuple[str, list[tuple[str, str, str]]]] = [
    ('Start', [
        ('README.md', 'index.html', 'unstick'),
        ('docs/tutorial.md', 'tutorial.html', 'Tutorial'),
    ]),
    ('How to', [
        ('docs/howto/diffusers.md', 'howto/diffusers.html', 'Switch FLUX in diffusers'),
        ('docs/howto/card-12gb.md', 'howto/card-12gb.html', 'Fit a 12 GB card'),
        ('docs/howto/c-engine.md', 'howto/c-engine.html', 'Put it into a C engine'),
        ('docs/howto/griptape.md', 'howto/griptape.html', 'Use it in Griptape Nodes'),
        ('docs/howto/settings.md', 'howto/settings.html', 'Choose settings'),
        ('docs/hibernate.md', 'hibernate.html', 'Hibernate a process'),
        ('docs/howto/stuck.md', 'howto/stuck.html', 'Find out who holds memory'),
    ]),
    ('Understand', [
        ('docs/concepts.md', 'concepts.html', 'Concepts'),
        ('docs/cache.md', 'cache.html', 'The cache'),
        ('docs/victims.md', 'victims.html', 'Who has to leave'),
        ('docs/reclaim.md', 'reclaim.html', 'Reclaim'),
        ('docs/allocator.md', 'allocator.html', "Torch's allocator"),
        ('docs/seed.md', 'seed.html', 'Where it comes from'),
    ]),
    ('Look up', [
        ('docs/errors.md', 'errors.html', 'Errors: cause and cure'),
        ('docs/platforms.md', 'platforms.html', 'Platforms'),
        ('', 'reference/command.html', 'Command line'),
        ('', 'reference/python.html', 'Python reference'),
        ('', 'reference/index.html', 'C reference'),
    ]),
    ('The project', [
        ('ARCHITECTURE.md', 'architecture.html', 'Architecture'),
        ('CONTRIBUTING.md', 'contributing.html', 'Contributing'),
        ('bench/results/README.md', 'results.html', 'Results'),
        ('bench/compare/README.md', 'compare.html', 'Beside its peers'),
        ('docs/cards.md', 'cards.html', 'Cards'),
        ('CHANGELOG.md', 'changelog.html', 'Changelog'),
        ('SECURITY.md', 'security.html', 'Security'),
    ]),
]  # fmt: skip
