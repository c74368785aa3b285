from spikemesh.cli import main

main()
